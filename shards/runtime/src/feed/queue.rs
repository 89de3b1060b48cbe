//! What waits for one client: its elements in order, bounded, squashed where it asked for that, and how they are written.
//!
//! Always: a queue never holds more elements than its bound. The one that would be too many clears it, and the client
//! is told how many it missed before anything later. The JSON of a change is made once and shared by all who send it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use photondb_proto::datum::{Datum, ObjectBuilder, document, json};
use photondb_proto::feed::{ElementForm, Elements, Squash};
use photondb_proto::op::{Document, Key};
use photondb_proto::resume::Commits;

use super::RowChange;
use super::log::Tokens;
use crate::admission::Lease;

/// A change that has come to the listening core.
#[derive(Debug)]
pub struct Change {
    pub shard: u32,
    pub commit: u64,
    /// Where the row stands now, or stood last.
    pub key: Key,
    /// Where it stood before, if that was elsewhere.
    old_key: Option<Key>,
    pub old: Option<Document>,
    pub new: Option<Document>,
    pub part: u32,
    pub more: bool,
    /// `"new_val":…,"old_val":…`
    json: OnceCell<Box<[u8]>>,
    /// What it takes of the core's memory.
    pub held: RefCell<Option<Held>>,
}

/// Memory of a change that waits.
#[derive(Debug)]
pub struct Held {
    bytes: u64,
    _lease: Lease,
    /// Of all changes that wait on the core.
    all: Rc<Cell<u64>>,
}

impl Held {
    pub fn new(bytes: u64, lease: Lease, all: Rc<Cell<u64>>) -> Held {
        all.set(all.get() + bytes);
        Held { bytes, _lease: lease, all }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.set(self.all.get() - self.bytes);
    }
}

impl Change {
    pub fn new(change: RowChange) -> Change {
        let RowChange { shard, commit, key, old_key, old, new, part, more } = change;
        Change {
            shard,
            commit,
            key,
            old_key,
            old,
            new,
            part,
            more,
            json: OnceCell::new(),
            held: RefCell::new(None),
        }
    }

    /// Where the row stood before.
    pub fn from(&self) -> &Key {
        self.old_key.as_ref().unwrap_or(&self.key)
    }

    /// It is told of one place and not of the other: the row left, or came.
    pub fn half(&self, tells_old: bool) -> Change {
        let (key, old, new) = match tells_old {
            true => (self.from(), self.old.clone(), None),
            false => (&self.key, None, self.new.clone()),
        };
        let (shard, commit, key) = (self.shard, self.commit, key.clone());
        Change::new(RowChange {
            shard,
            commit,
            key,
            old_key: None,
            old,
            new,
            part: self.part,
            more: self.more,
        })
    }

    /// Bytes it holds, with its JSON.
    pub fn bytes(&self) -> u64 {
        let values = self.old.as_ref().map_or(0, Vec::len) + self.new.as_ref().map_or(0, Vec::len);
        (2 * values + self.key.len() + 128) as u64
    }

    /// Makes its JSON for all who write it.
    fn keep_json(&self) {
        self.json.get_or_init(|| {
            let mut out = Vec::with_capacity(64);
            self.write_values(&mut out);
            out.into_boxed_slice()
        });
    }

    fn write_values(&self, out: &mut Vec<u8>) {
        if let Some(json) = self.json.get() {
            return out.extend_from_slice(json);
        }
        out.extend_from_slice(b"\"new_val\":");
        write_value(self.new.as_deref(), out);
        out.extend_from_slice(b",\"old_val\":");
        write_value(self.old.as_deref(), out);
    }

    /// Writes its element, without offsets.
    pub fn write(&self, token: Option<&str>, include_types: bool, out: &mut Vec<u8>) {
        out.push(b'{');
        self.write_values(out);
        if let Some(token) = token {
            out.extend_from_slice(b",\"resume_token\":\"");
            out.extend_from_slice(token.as_bytes());
            out.push(b'"');
        }
        if include_types {
            out.extend_from_slice(b",\"type\":\"");
            out.extend_from_slice(self.type_name().as_bytes());
            out.push(b'"');
        }
        out.push(b'}');
    }

    fn type_name(&self) -> &'static str {
        match (&self.old, &self.new) {
            (None, _) => "add",
            (_, None) => "remove",
            (Some(_), Some(_)) => "change",
        }
    }
}

fn write_value(value: Option<&[u8]>, out: &mut Vec<u8>) {
    match value {
        Some(value) => document::write_json(value, out),
        None => out.extend_from_slice(b"null"),
    }
}

/// Places in the window of a limit feed: (old, new).
pub type Offsets = Option<(Option<u32>, Option<u32>)>;

/// An element of a feed.
#[derive(Clone, Debug)]
pub enum Element {
    Initializing,
    Ready,
    /// A row as it was when the feed began.
    Initial {
        value: Rc<Document>,
        offset: Option<u32>,
    },
    /// A row that had been told as initial is gone before all were.
    Uninitial(Rc<Change>),
    /// Of this member.
    Change(Rc<Change>, Offsets, u16),
    /// Squashed away.
    Gone,
    /// Not for the client: all changes of that member up to these places have been told. Said for the first time, its initial
    /// values have been, too.
    Reached(u16, Commits),
    /// A resume token, where there is no state that could bear it.
    Token,
}

pub struct Queue {
    elements: VecDeque<Element>,
    /// Number of the first element; they are numbered as they come.
    first: u64,
    /// Where the waiting change of a member's key is.
    places: HashMap<(u16, Key), u64>,
    squash: Squash,
    elements_max: usize,
    /// Left out since the client was last told.
    skipped: u64,
    pub include_types: bool,
    include_offsets: bool,
    /// How far the client is, if it wants to know.
    tokens: Option<Tokens>,
    /// Where it squashes: how far it is when it has taken all that waits, and what it will be when it has taken the elements before
    /// these numbers. One element stands for several changes there, so only the last of what waited when it began to take is a place.
    coming: Option<Tokens>,
    marks: VecDeque<(u64, Tokens)>,
    is_marked: bool,
    /// Changes have passed that the client was told no token of.
    owes_token: bool,
    /// The feed has ended.
    is_over: bool,
}

impl Queue {
    pub fn new(squash: Squash, elements_max: u32, include_types: bool, include_offsets: bool) -> Queue {
        Queue {
            elements: VecDeque::new(),
            first: 0,
            places: HashMap::new(),
            squash,
            elements_max: elements_max as usize,
            skipped: 0,
            include_types,
            include_offsets,
            tokens: None,
            coming: None,
            marks: VecDeque::new(),
            is_marked: false,
            owes_token: false,
            is_over: false,
        }
    }

    /// From now on elements bear tokens.
    pub fn bear(&mut self, tokens: Option<Tokens>) {
        self.coming = tokens.clone().filter(|_| self.squash != Squash::Never);
        self.tokens = tokens;
    }

    pub fn bears_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// Changes have passed that the client was told no token of.
    pub fn owes_token(&self) -> bool {
        self.owes_token
    }

    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// Nothing to send.
    pub fn is_empty(&self) -> bool {
        self.skipped == 0
            && self.elements.iter().all(|element| matches!(element, Element::Gone | Element::Reached(..)))
    }

    /// An element that is not a change: the reader of initial values waits for room, so it always fits.
    pub fn push(&mut self, element: Element) {
        if self.is_over {
            return;
        }
        if let (Element::Reached(member, places), Some(tokens)) = (&element, &self.tokens) {
            self.owes_token |= tokens.is_before(*member, places);
        }
        if let Some(coming) = &mut self.coming {
            pass(coming, &element);
            if matches!(element, Element::Reached(..)) {
                return;
            }
        }
        let ends = matches!(element, Element::Ready | Element::Token);
        self.elements.push_back(element);
        if ends {
            self.mark();
        }
    }

    /// What waits now is taken before anything that comes.
    fn mark(&mut self) {
        let Some(coming) = &self.coming else { return };
        while matches!(self.elements.back(), Some(Element::Gone)) {
            self.elements.pop_back();
        }
        self.places.clear();
        let end = self.first + self.elements.len() as u64;
        if self.elements.is_empty() {
            self.tokens = Some(coming.clone());
        } else if self.marks.back().is_none_or(|(mark, _)| *mark < end) {
            self.marks.push_back((end, coming.clone()));
        }
    }

    /// A change while initial values are still being told: a row that comes is one of them, one that goes takes its own back.
    /// False as for [`Queue::push_change`].
    pub fn push_initial_change(&mut self, member: u16, change: Rc<Change>) -> bool {
        self.push_bounded(Queue::initial_change(member, change))
    }

    pub fn initial_change(member: u16, change: Rc<Change>) -> Element {
        match (&change.old, &change.new) {
            (None, Some(value)) => Element::Initial { value: Rc::new(value.clone()), offset: None },
            (_, None) => Element::Uninitial(change),
            (Some(_), Some(_)) => Element::Change(change, None, member),
        }
    }

    /// A change that follows what is there. False when it was too much, and all that waited is left out with it.
    pub fn push_change(&mut self, member: u16, change: Rc<Change>, offsets: Offsets) -> bool {
        if self.squash != Squash::Never && offsets.is_none() && !self.is_over {
            if self.squashed(member, &change) {
                return true;
            }
            let place = self.first + self.elements.len() as u64;
            self.places.insert((member, change.key.clone()), place);
        }
        self.push_bounded(Element::Change(change, offsets, member))
    }

    fn push_bounded(&mut self, element: Element) -> bool {
        if self.is_over {
            return true;
        }
        if self.elements.len() >= self.elements_max {
            self.clear(1);
            return false;
        }
        if let Some(coming) = &mut self.coming {
            pass(coming, &element);
        }
        self.elements.push_back(element);
        true
    }

    /// The next element is a change, and nothing is to be told before it.
    pub fn begins_with_change(&self) -> bool {
        self.skipped == 0 && matches!(self.elements.front(), Some(Element::Change(..) | Element::Gone))
    }

    /// Makes one of a change that waits and one that follows it.
    fn squashed(&mut self, member: u16, change: &Rc<Change>) -> bool {
        let from = (member, change.from().clone());
        let Some(place) = self.places.get(&from).copied() else { return false };
        let Some(at) = place.checked_sub(self.first) else { return false };
        let Some(element @ Element::Change(..)) = self.elements.get_mut(at as usize) else { return false };
        let Element::Change(waiting, ..) = &*element else { return false };
        let (old, new) = (waiting.old.clone(), change.new.clone());
        *element = match document::are_same(old.as_ref(), new.as_ref()) {
            true => Element::Gone,
            false => {
                let one = Change::new(RowChange {
                    shard: change.shard,
                    commit: change.commit,
                    key: change.key.clone(),
                    old_key: Some(waiting.from().clone()),
                    old,
                    new,
                    part: change.part,
                    more: change.more,
                });
                one.held.replace(waiting.held.take());
                Element::Change(Rc::new(one), None, member)
            }
        };
        let is_gone = matches!(element, Element::Gone);
        if let Some(coming) = &mut self.coming {
            coming.pass(member, change);
        }
        self.places.remove(&from);
        if !is_gone {
            self.places.insert((member, change.key.clone()), place);
        }
        true
    }

    /// Leaves out what waits, and `more` that did not come to wait. States stay.
    pub fn clear(&mut self, more: u64) {
        let before = self.elements.len();
        self.first += before as u64;
        let stays = |element: &Element| match element {
            Element::Initializing | Element::Ready | Element::Reached(..) | Element::Token => true,
            Element::Initial { .. } | Element::Uninitial(_) | Element::Change(..) | Element::Gone => false,
        };
        self.elements.retain(stays);
        self.places.clear();
        self.marks.clear();
        if self.coming.is_some() {
            self.tokens.clone_from(&self.coming);
        }
        self.skipped += (before - self.elements.len()) as u64 + more;
    }

    /// How many were left out since the client was told.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The feed ends here, with what was left out: nothing behind that is told, and no token that says it was. Gives how many were left
    /// out since the client was told, which it will not be in the stream.
    pub fn abandon(&mut self) -> u64 {
        self.is_over = true;
        self.elements.clear();
        self.marks.clear();
        std::mem::take(&mut self.skipped)
    }

    /// Takes elements for the client.
    pub fn take(&mut self, form: ElementForm, elements_max: u32, bytes_max: u32) -> Elements {
        let (mut items, mut documents, mut count, mut bytes) = (Vec::new(), Vec::new(), 0, 0);
        self.mark();
        if self.skipped > 0 {
            let text = format!("Changefeed cache over array size limit, skipped {} elements.", self.skipped);
            self.skipped = 0;
            let error = Datum::object([("error", Datum::string(&text))]);
            match form {
                ElementForm::Json => json::write(&error, &mut items),
                ElementForm::Documents => documents.push(document::to_bytes(&error)),
            }
            count += 1;
        }
        while count < elements_max && bytes < bytes_max as usize {
            let Some(element) = self.elements.pop_front() else { break };
            self.first += 1;
            if let Element::Change(change, _, member) = &element
                && !self.places.is_empty()
            {
                self.places.remove(&(*member, change.key.clone()));
            }
            self.pass(&element);
            if matches!(element, Element::Gone | Element::Reached(..)) {
                continue;
            }
            self.owes_token &= !self.tells_token(&element);
            match form {
                ElementForm::Json => {
                    if count > 0 {
                        items.push(b',');
                    }
                    self.write(&element, &mut items);
                    bytes = items.len();
                }
                ElementForm::Documents => {
                    let document = self.document(&element);
                    bytes += document.len();
                    documents.push(document);
                }
            }
            count += 1;
        }
        match form {
            ElementForm::Json => Elements::Json { items: items.into(), count },
            ElementForm::Documents => Elements::Documents(documents),
        }
    }

    /// An element goes to the client: tokens from here on say so.
    fn pass(&mut self, element: &Element) {
        let Some(tokens) = &mut self.tokens else { return };
        if self.coming.is_none() {
            return pass(tokens, element);
        }
        self.is_marked = false;
        while self.marks.front().is_some_and(|(mark, _)| *mark <= self.first)
            && let Some((_, reached)) = self.marks.pop_front()
        {
            *tokens = reached;
            self.is_marked = true;
        }
    }

    fn token(&self) -> Option<String> {
        let is_place = self.coming.is_none() || self.is_marked;
        self.tokens.as_ref().filter(|_| is_place).and_then(Tokens::text)
    }

    /// The element bears a token.
    fn tells_token(&self, element: &Element) -> bool {
        matches!(element, Element::Ready | Element::Change(..) | Element::Token)
            && (self.coming.is_none() || self.is_marked)
    }

    fn type_of(element: &Element) -> &'static str {
        match element {
            Element::Initializing | Element::Ready | Element::Token => "state",
            Element::Initial { .. } => "initial",
            Element::Uninitial(_) => "uninitial",
            Element::Change(change, ..) => change.type_name(),
            Element::Gone | Element::Reached(..) => "change",
        }
    }

    fn write(&self, element: &Element, out: &mut Vec<u8>) {
        if let (Element::Change(change, ..), false) = (element, self.include_offsets) {
            change.keep_json();
            change.write(self.token().as_deref(), self.include_types, out);
            return;
        }
        json::write(&self.datum(element), out);
    }

    fn document(&self, element: &Element) -> Document {
        document::to_bytes(&self.datum(element))
    }

    fn datum(&self, element: &Element) -> Datum {
        let value = |bytes: &Option<Document>| {
            bytes.as_ref().map_or(Datum::Null, |bytes| document::from_bytes(bytes))
        };
        let offset =
            |offset: Option<u32>| offset.map_or(Datum::Null, |offset| Datum::Number(f64::from(offset)));
        let mut fields = Vec::new();
        match element {
            Element::Initializing => fields.push(("state", Datum::string("initializing"))),
            Element::Ready => fields.push(("state", Datum::string("ready"))),
            Element::Initial { value, offset: place } => {
                if self.include_offsets {
                    fields.push(("new_offset", offset(*place)));
                }
                fields.push(("new_val", document::from_bytes(value)));
            }
            Element::Uninitial(change) => fields.push(("old_val", value(&change.old))),
            Element::Change(change, offsets, _) => {
                let (old, new) = offsets.unwrap_or_default();
                if self.include_offsets {
                    fields.push(("new_offset", offset(new)));
                }
                fields.push(("new_val", value(&change.new)));
                if self.include_offsets {
                    fields.push(("old_offset", offset(old)));
                }
                fields.push(("old_val", value(&change.old)));
            }
            Element::Gone | Element::Reached(..) | Element::Token => {}
        }
        let has_token = matches!(element, Element::Ready | Element::Change(..) | Element::Token);
        let token = self.token().filter(|_| has_token);
        if let Some(token) = &token {
            fields.push(("resume_token", Datum::string(token)));
        }
        if self.include_types {
            fields.push(("type", Datum::string(Queue::type_of(element))));
        }
        let mut object = ObjectBuilder::default();
        fields.into_iter().for_each(|(name, value)| object.set(name, value));
        Datum::Object(object.build())
    }
}

/// An element has been told.
fn pass(tokens: &mut Tokens, element: &Element) {
    match element {
        Element::Change(change, _, member) => tokens.pass(*member, change),
        Element::Reached(member, places) => tokens.reach(*member, places),
        Element::Initializing
        | Element::Ready
        | Element::Initial { .. }
        | Element::Uninitial(_)
        | Element::Gone
        | Element::Token => {}
    }
}
