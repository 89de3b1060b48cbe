//! ReQL values: the type, their total order, and constructors.
//!
//! Always: an object's keys are unique and sorted bytewise; numbers are finite; text is UTF-8. A value read from a
//! stored document stays a *view* over the document's bytes ([`document`]): its fields are decoded when asked for.
//! Views and built values are told apart only inside [`Array`] and [`Object`], so that no evaluator knows.
//! Values live on one core (`Rc`); what crosses cores is encoded bytes.

pub mod document;
pub mod json;
pub mod json_parse;
pub mod json_steps;
pub mod key;
#[cfg(test)]
pub(crate) mod properties;
pub mod pseudo;
pub mod raw;
pub mod splice;

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use document::View;

/// A ReQL value. `MinVal` and `MaxVal` exist only as bounds and are never stored.
#[derive(Clone, Debug)]
pub enum Datum {
    MinVal,
    Null,
    Bool(bool),
    Number(f64),
    String(Text),
    Array(Array),
    /// Also geometry and literals, which are objects with a `$reql_type$` key.
    Object(Object),
    Binary(Slice),
    Time(Time),
    MaxVal,
}

/// A shared run of bytes.
#[derive(Clone)]
pub struct Slice {
    bytes: Rc<[u8]>,
    start: u32,
    end: u32,
}

impl Slice {
    pub fn new(bytes: Rc<[u8]>) -> Slice {
        let end = u32::try_from(bytes.len()).expect("a value is smaller than 4 GiB");
        Slice { bytes, start: 0, end }
    }

    /// The part `start..end`, relative to this slice; shares the bytes.
    pub fn part(&self, start: usize, end: usize) -> Slice {
        assert!(start <= end && end <= self.len());
        Slice { bytes: self.bytes.clone(), start: self.start + start as u32, end: self.start + end as u32 }
    }

    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether both are the same part of the same bytes.
    fn is_same(&self, other: &Slice) -> bool {
        Rc::ptr_eq(&self.bytes, &other.bytes) && (self.start, self.end) == (other.start, other.end)
    }
}

impl std::ops::Deref for Slice {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[self.start as usize..self.end as usize]
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", &**self)
    }
}

impl From<&[u8]> for Slice {
    fn from(bytes: &[u8]) -> Slice {
        Slice::new(bytes.into())
    }
}

impl From<Vec<u8>> for Slice {
    fn from(bytes: Vec<u8>) -> Slice {
        Slice::new(bytes.into())
    }
}

/// A shared string.
#[derive(Clone)]
pub struct Text(Slice);

impl Text {
    pub fn new(text: &str) -> Text {
        Text(Slice::from(text.as_bytes()))
    }

    /// Text over bytes that the caller knows to be UTF-8 (a stored document's).
    pub(crate) fn from_slice(slice: Slice) -> Text {
        debug_assert!(std::str::from_utf8(&slice).is_ok());
        Text(slice)
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("text is UTF-8, checked when it was made")
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::ops::Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.as_str())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        Text::new(text)
    }
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        Text(Slice::from(text.into_bytes()))
    }
}

impl Borrow<[u8]> for Text {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Text) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}
impl Eq for Text {}
impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Text) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Text {
    fn cmp(&self, other: &Text) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

/// A moment and the zone it was written in. Compared by moment only.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    /// Seconds since 1970-01-01T00:00:00Z, rounded to milliseconds.
    pub epoch_seconds: f64,
    /// Minutes east of Greenwich.
    pub zone_minutes: i16,
}

/// An array value.
#[derive(Clone)]
pub struct Array(ArrayForm);

#[derive(Clone)]
enum ArrayForm {
    /// The items, and how deep they nest.
    Built(Rc<Vec<Datum>>, u32),
    View(View),
}

impl Array {
    pub fn new(items: Vec<Datum>) -> Array {
        let depth = 1 + items.iter().map(Datum::depth).max().unwrap_or(0);
        Array(ArrayForm::Built(Rc::new(items), depth))
    }

    pub(crate) fn view(view: View) -> Array {
        Array(ArrayForm::View(view))
    }

    pub fn len(&self) -> usize {
        match &self.0 {
            ArrayForm::Built(items, _) => items.len(),
            ArrayForm::View(view) => view.count(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The item at `index`. On a view this skips the items before it.
    pub fn item(&self, index: usize) -> Option<Datum> {
        match &self.0 {
            ArrayForm::Built(items, _) => items.get(index).cloned(),
            ArrayForm::View(view) => view.items().nth(index),
        }
    }

    pub fn iter(&self) -> ArrayIter<'_> {
        match &self.0 {
            ArrayForm::Built(items, _) => ArrayIter::Built(items.iter()),
            ArrayForm::View(view) => ArrayIter::View(view.items()),
        }
    }

    /// The item at a place, which goes on to the next.
    pub(crate) fn item_at(&self, place: &mut json_steps::Place) -> Option<Datum> {
        let item = match &self.0 {
            ArrayForm::Built(items, _) => items.get(place.index).cloned(),
            ArrayForm::View(view) => view.item_at(place),
        };
        place.index += 1;
        item
    }

    /// The items, taken without copying when nobody else holds the array.
    pub fn into_vec(self) -> Vec<Datum> {
        match self.0 {
            ArrayForm::Built(items, _) => Rc::try_unwrap(items).unwrap_or_else(|shared| (*shared).clone()),
            ArrayForm::View(view) => view.items().collect(),
        }
    }

    /// The view when this is one: lets the encoder copy it whole.
    pub(crate) fn encoded(&self) -> Option<&View> {
        match &self.0 {
            ArrayForm::Built(_, _) => None,
            ArrayForm::View(view) => Some(view),
        }
    }

    /// About how many bytes of memory the items hold on to.
    pub fn approximate_bytes(&self) -> usize {
        match &self.0 {
            ArrayForm::Built(items, _) => items.iter().map(Datum::approximate_bytes).sum(),
            ArrayForm::View(view) => view.bytes(),
        }
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

impl FromIterator<Datum> for Array {
    fn from_iter<T: IntoIterator<Item = Datum>>(items: T) -> Array {
        Array::new(items.into_iter().collect())
    }
}

/// Walks an array's items; yields owned values (cheap clones or views).
pub enum ArrayIter<'a> {
    Built(std::slice::Iter<'a, Datum>),
    View(document::Items<'a>),
}

impl Iterator for ArrayIter<'_> {
    type Item = Datum;
    fn next(&mut self) -> Option<Datum> {
        match self {
            ArrayIter::Built(items) => items.next().cloned(),
            ArrayIter::View(items) => items.next(),
        }
    }
}

/// An object value: pairs sorted by key, keys unique.
#[derive(Clone)]
pub struct Object(ObjectForm);

#[derive(Clone)]
enum ObjectForm {
    /// The pairs, and how deep their values nest.
    Built(Rc<Vec<(Text, Datum)>>, u32),
    View(View),
}

impl Object {
    pub fn empty() -> Object {
        Object(ObjectForm::Built(Rc::new(Vec::new()), 1))
    }

    /// From pairs in any order. Of equal keys the last wins; callers that must refuse duplicates use [`ObjectBuilder`].
    pub fn from_pairs(pairs: Vec<(Text, Datum)>) -> Object {
        let mut builder = ObjectBuilder::default();
        for (key, value) in pairs {
            builder.set(key, value);
        }
        builder.build()
    }

    pub(crate) fn view(view: View) -> Object {
        Object(ObjectForm::View(view))
    }

    pub fn len(&self) -> usize {
        match &self.0 {
            ObjectForm::Built(pairs, _) => pairs.len(),
            ObjectForm::View(view) => view.count(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value under `key`; siblings are skipped, not decoded.
    pub fn field(&self, key: &str) -> Option<Datum> {
        match &self.0 {
            ObjectForm::Built(pairs, _) => {
                let found = pairs.binary_search_by(|(name, _)| name.as_bytes().cmp(key.as_bytes())).ok()?;
                Some(pairs[found].1.clone())
            }
            ObjectForm::View(view) => view.field(key),
        }
    }

    pub fn has(&self, key: &str) -> bool {
        self.field(key).is_some()
    }

    pub fn iter(&self) -> ObjectIter<'_> {
        match &self.0 {
            ObjectForm::Built(pairs, _) => ObjectIter::Built(pairs.iter()),
            ObjectForm::View(view) => ObjectIter::View(view.pairs()),
        }
    }

    /// The pair at a place, which goes on to the next.
    pub(crate) fn pair_at(&self, place: &mut json_steps::Place) -> Option<(Text, Datum)> {
        let pair = match &self.0 {
            ObjectForm::Built(pairs, _) => pairs.get(place.index).cloned(),
            ObjectForm::View(view) => view.pair_at(place),
        };
        place.index += 1;
        pair
    }

    /// A builder that starts from these pairs.
    pub fn to_builder(&self) -> ObjectBuilder {
        ObjectBuilder { pairs: self.iter().collect(), late: BTreeMap::new() }
    }

    pub(crate) fn encoded(&self) -> Option<&View> {
        match &self.0 {
            ObjectForm::Built(_, _) => None,
            ObjectForm::View(view) => Some(view),
        }
    }

    /// About how many bytes of memory the pairs hold on to.
    pub fn approximate_bytes(&self) -> usize {
        match &self.0 {
            ObjectForm::Built(pairs, _) => {
                pairs.iter().map(|(key, value)| key.as_bytes().len() + value.approximate_bytes()).sum()
            }
            ObjectForm::View(view) => view.bytes(),
        }
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.iter()).finish()
    }
}

/// Walks an object's pairs in key order; yields owned values.
pub enum ObjectIter<'a> {
    Built(std::slice::Iter<'a, (Text, Datum)>),
    View(document::Pairs<'a>),
}

impl Iterator for ObjectIter<'_> {
    type Item = (Text, Datum);
    fn next(&mut self) -> Option<(Text, Datum)> {
        match self {
            ObjectIter::Built(pairs) => pairs.next().cloned(),
            ObjectIter::View(pairs) => pairs.next(),
        }
    }
}

/// Pairs among which a key that comes out of order is put; of more than these it waits apart, so that however keys come, an
/// object of many is made in little time.
const SHIFTED_PAIRS_MAX: usize = 64;

/// Makes an object; keeps its pairs sorted.
#[derive(Default)]
pub struct ObjectBuilder {
    pairs: Vec<(Text, Datum)>,
    /// Pairs that came too late for their place; none of their keys is in `pairs`.
    late: BTreeMap<Text, Datum>,
}

impl ObjectBuilder {
    /// By bytes and not by text, which would be proved UTF-8 again at every step.
    fn place(&self, key: &[u8]) -> Result<usize, usize> {
        // Keys mostly arrive in order: look at the end first.
        match self.pairs.last() {
            Some((last, _)) if last.as_bytes() < key => Err(self.pairs.len()),
            Some(_) => self.pairs.binary_search_by(|(name, _)| name.as_bytes().cmp(key)),
            None => Err(0),
        }
    }

    /// The value under a key, or where the key belongs among the pairs.
    fn value(&mut self, key: &[u8]) -> Result<&mut Datum, usize> {
        match self.place(key) {
            Ok(index) => Ok(&mut self.pairs[index].1),
            Err(index) => self.late.get_mut(key).ok_or(index),
        }
    }

    fn insert(&mut self, index: usize, key: Text, value: Datum) {
        if index < self.pairs.len() && self.pairs.len() > SHIFTED_PAIRS_MAX {
            self.late.insert(key, value);
        } else {
            self.pairs.insert(index, (key, value));
        }
    }

    /// Puts `value` under `key`, replacing what was there.
    pub fn set(&mut self, key: impl Into<Text>, value: Datum) {
        let key = key.into();
        match self.value(key.as_bytes()) {
            Ok(known) => *known = value,
            Err(index) => self.insert(index, key, value),
        }
    }

    /// Puts `value` under a new `key`; gives the value already there when the key is taken.
    pub fn add(&mut self, key: impl Into<Text>, value: Datum) -> Result<(), Datum> {
        let key = key.into();
        match self.value(key.as_bytes()) {
            Ok(known) => Err(known.clone()),
            Err(index) => {
                self.insert(index, key, value);
                Ok(())
            }
        }
    }

    pub fn remove(&mut self, key: &str) -> Option<Datum> {
        match self.place(key.as_bytes()) {
            Ok(index) => Some(self.pairs.remove(index).1),
            Err(_) => self.late.remove(key.as_bytes()),
        }
    }

    pub fn field(&self, key: &str) -> Option<&Datum> {
        match self.place(key.as_bytes()) {
            Ok(index) => Some(&self.pairs[index].1),
            Err(_) => self.late.get(key.as_bytes()),
        }
    }

    pub fn build(mut self) -> Object {
        if !self.late.is_empty() {
            self.pairs.extend(self.late);
            self.pairs.sort_by(|(left, _), (right, _)| left.cmp(right));
        }
        let depth = 1 + self.pairs.iter().map(|(_, value)| value.depth()).max().unwrap_or(0);
        Object(ObjectForm::Built(Rc::new(self.pairs), depth))
    }
}

impl Datum {
    pub fn string(text: &str) -> Datum {
        Datum::String(Text::new(text))
    }

    pub fn array(items: Vec<Datum>) -> Datum {
        Datum::Array(Array::new(items))
    }

    /// How deep arrays and objects nest in it, whatever is inside encoded documents: those are bounded by
    /// [`limits::DATUM_DEPTH_MAX`] of their own.
    pub fn depth(&self) -> u32 {
        match self {
            Datum::Array(Array(ArrayForm::Built(_, depth)))
            | Datum::Object(Object(ObjectForm::Built(_, depth))) => *depth,
            _ => 0,
        }
    }

    /// An object from pairs in any order.
    pub fn object<const N: usize>(pairs: [(&str, Datum); N]) -> Datum {
        let mut builder = ObjectBuilder::default();
        for (key, value) in pairs {
            builder.set(key, value);
        }
        Datum::Object(builder.build())
    }

    /// About how many bytes of memory the value holds on to: what a query's memory budget counts.
    pub fn approximate_bytes(&self) -> usize {
        std::mem::size_of::<Datum>()
            + match self {
                Datum::MinVal
                | Datum::Null
                | Datum::Bool(_)
                | Datum::Number(_)
                | Datum::Time(_)
                | Datum::MaxVal => 0,
                Datum::String(text) => text.as_bytes().len(),
                Datum::Binary(bytes) => bytes.len(),
                Datum::Array(array) => array.approximate_bytes(),
                Datum::Object(object) => object.approximate_bytes(),
            }
    }

    /// Only `null` and `false` are false.
    pub fn is_truthy(&self) -> bool {
        !matches!(self, Datum::Null | Datum::Bool(false))
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Datum::Null)
    }

    /// The `$reql_type$` of an object that is a pseudotype kept as an object: GEOMETRY or LITERAL.
    pub fn pseudotype(&self) -> Option<Text> {
        match self {
            Datum::Object(object) => match object.field(pseudo::TYPE_KEY) {
                Some(Datum::String(name)) => Some(name),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether it is known, without a look inside, that it may be stored `level` levels deep in a document.
    pub fn is_storable_at(&self, level: u32) -> bool {
        match self {
            Datum::Array(array) => array.encoded().is_some_and(|view| view.is_storable_at(level)),
            Datum::Object(object) => object.encoded().is_some_and(|view| view.is_storable_at(level)),
            Datum::MinVal
            | Datum::Null
            | Datum::Bool(_)
            | Datum::Number(_)
            | Datum::String(_)
            | Datum::Binary(_)
            | Datum::Time(_)
            | Datum::MaxVal => false,
        }
    }

    /// The name `type_of` gives: `NUMBER`, `PTYPE<TIME>`, …
    pub fn type_name(&self) -> &'static str {
        match self {
            Datum::MinVal => "MINVAL",
            Datum::Null => "NULL",
            Datum::Bool(_) => "BOOL",
            Datum::Number(_) => "NUMBER",
            Datum::String(_) => "STRING",
            Datum::Array(_) => "ARRAY",
            Datum::Object(_) => match self.pseudotype().as_deref() {
                Some("GEOMETRY") => "PTYPE<GEOMETRY>",
                Some("LITERAL") => "PTYPE<LITERAL>",
                Some(_) | None => "OBJECT",
            },
            Datum::Binary(_) => "PTYPE<BINARY>",
            Datum::Time(_) => "PTYPE<TIME>",
            Datum::MaxVal => "MAXVAL",
        }
    }

    /// The place of the value's type in the order between types, which is the order of type names.
    fn rank(&self) -> u8 {
        match self {
            Datum::MinVal => 0,
            Datum::Array(_) => 1,
            Datum::Bool(_) => 2,
            Datum::Null => 3,
            Datum::Number(_) => 4,
            Datum::Object(_) => 5,
            Datum::Binary(_) => 6,
            Datum::Time(_) => 7,
            Datum::String(_) => 8,
            Datum::MaxVal => 9,
        }
    }
}

impl From<f64> for Datum {
    fn from(number: f64) -> Datum {
        Datum::Number(number)
    }
}
impl From<bool> for Datum {
    fn from(value: bool) -> Datum {
        Datum::Bool(value)
    }
}
impl From<&str> for Datum {
    fn from(text: &str) -> Datum {
        Datum::string(text)
    }
}

impl PartialEq for Datum {
    fn eq(&self, other: &Datum) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Datum {}
impl PartialOrd for Datum {
    fn partial_cmp(&self, other: &Datum) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Whether both are views of the same bytes, as what an update leaves alone is.
fn same(left: Option<&View>, right: Option<&View>) -> bool {
    matches!((left, right), (Some(left), Some(right)) if left.is_same(right))
}

impl Ord for Datum {
    /// ReQL's total order: by type name, then by value.
    fn cmp(&self, other: &Datum) -> Ordering {
        match (self, other) {
            (Datum::Bool(a), Datum::Bool(b)) => a.cmp(b),
            // `partial_cmp` and not `total_cmp`: 0.0 and -0.0 are equal.
            (Datum::Number(a), Datum::Number(b)) => a.partial_cmp(b).expect("numbers are finite"),
            (Datum::String(a), Datum::String(b)) => a.cmp(b),
            (Datum::Binary(a), Datum::Binary(b)) => (**a).cmp(&**b),
            (Datum::Time(a), Datum::Time(b)) => {
                a.epoch_seconds.partial_cmp(&b.epoch_seconds).expect("times are finite")
            }
            (Datum::Array(a), Datum::Array(b)) if same(a.encoded(), b.encoded()) => Ordering::Equal,
            (Datum::Object(a), Datum::Object(b)) if same(a.encoded(), b.encoded()) => Ordering::Equal,
            (Datum::Array(a), Datum::Array(b)) => a.iter().cmp(b.iter()),
            (Datum::Object(a), Datum::Object(b)) => a.iter().cmp(b.iter()),
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }
}
