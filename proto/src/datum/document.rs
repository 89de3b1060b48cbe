//! The binary form of values: what documents are on disk and what values are when they cross cores.
//!
//! A value is a tag byte and a payload. All integers are little-endian; `varint` is LEB128 of a u32.
//!
//! | tag | value | payload |
//! |---|---|---|
//! | 0, 1, 2 | null, false, true | none |
//! | 3 | number | 8 bytes, IEEE double |
//! | 4 | number, integral, 0 ≤ n < 2^32 | varint |
//! | 5 | string | varint length, UTF-8 |
//! | 6 | binary | varint length, bytes |
//! | 7 | time | 8 bytes epoch seconds (double), 2 bytes zone minutes (i16) |
//! | 8 | array | u32 body length, body = varint count, items |
//! | 9 | object | u32 body length, body = varint count, pairs (varint key length, key, value), sorted by key |
//! | 10, 11 | minval, maxval | none; in messages only, never stored |
//! | 12 | object with a directory | u32 body length, body = varint count, per pair u16 where it begins behind the directory, pairs |
//!
//! Containers carry their byte length so that a sibling is skipped without looking inside. An object of [`DIRECTORY_PAIRS_MIN`]
//! pairs and 128 bytes to 64 KiB has a directory in the order of its keys: a scan that looks for one field of many documents is bound by the
//! lines of memory it touches, and finds a field in the directory by where it was in the document before ([`Raw::field`]). Pairs
//! whose values have at most [`NEAR_VALUE_BYTES`] stand before the others, so that numbers, times and short names of a long document are in the line
//! of its directory or the next. (Those written before that have all pairs in the order of their keys; who reads goes by the directory.) Both forms of an
//! object are the same value.
//!
//! Views trust their bytes: [`decode`] is for bytes made by this process or covered by a checksum, [`check`] proves
//! foreign bytes sound first.

use std::rc::Rc;

use super::json_steps::Place;
use super::raw::Raw;
use super::{Array, Datum, Object, Slice, Text, Time};
use crate::limits;

pub(crate) mod tag {
    pub const NULL: u8 = 0;
    pub const FALSE: u8 = 1;
    pub const TRUE: u8 = 2;
    pub const NUMBER: u8 = 3;
    pub const SMALL_INTEGER: u8 = 4;
    pub const STRING: u8 = 5;
    pub const BINARY: u8 = 6;
    pub const TIME: u8 = 7;
    pub const ARRAY: u8 = 8;
    pub const OBJECT: u8 = 9;
    pub const MINVAL: u8 = 10;
    pub const MAXVAL: u8 = 11;
    pub const INDEXED_OBJECT: u8 = 12;
}
use tag::*;

/// Objects of fewer pairs have no directory.
const DIRECTORY_PAIRS_MIN: u32 = 4;
/// Bytes of the pairs of an object that has one.
const DIRECTORY_FOR_BYTES: std::ops::RangeInclusive<usize> = 128..=0xffff;
/// Pairs with so small values stand right behind the directory: all but text, binary data and containers, and what of these is short.
const NEAR_VALUE_BYTES: usize = 11;
/// Objects of more pairs need memory of their own while their directory is made.
const FEW_PAIRS: usize = 32;
/// Bytes of a directory's entry.
const ENTRY: usize = 2;

/// Appends the binary form of `datum`. A view is copied whole.
pub fn encode(datum: &Datum, out: &mut Vec<u8>) {
    match datum {
        Datum::Null => out.push(NULL),
        Datum::Bool(false) => out.push(FALSE),
        Datum::Bool(true) => out.push(TRUE),
        Datum::Number(number) => encode_number(*number, out),
        Datum::String(text) => {
            out.push(STRING);
            put_bytes(text.as_bytes(), out);
        }
        Datum::Binary(bytes) => {
            out.push(BINARY);
            put_bytes(bytes, out);
        }
        Datum::Time(time) => {
            out.push(TIME);
            out.extend_from_slice(&time.epoch_seconds.to_le_bytes());
            out.extend_from_slice(&time.zone_minutes.to_le_bytes());
        }
        Datum::Array(array) => {
            let mut body = BodyWriter::begin(ARRAY, out);
            match array.encoded() {
                Some(view) => body.raw(&view.body),
                None => {
                    body.count(array.len());
                    array.iter().for_each(|item| encode(&item, body.out));
                }
            }
            body.end();
        }
        Datum::Object(object) => match object.encoded() {
            Some(view) => {
                let mut body = BodyWriter::begin(view.form.tag(), out);
                body.raw(&view.body);
                body.end();
            }
            None => {
                let mut body = BodyWriter::begin(OBJECT, out);
                body.count(object.len());
                for (key, value) in object.iter() {
                    put_bytes(key.as_bytes(), body.out);
                    encode(&value, body.out);
                }
                body.add_directory();
                body.end();
            }
        },
        Datum::MinVal => out.push(MINVAL),
        Datum::MaxVal => out.push(MAXVAL),
    }
}

/// Whether two encoded values are equal: the same value may have several forms, and an object of version 5 of the files has another than today's.
pub fn is_same(one: &[u8], other: &[u8]) -> bool {
    let has_one_form = |value: &[u8]| matches!(value[0], NULL | FALSE | TRUE | STRING | BINARY);
    one == other
        || !(has_one_form(one) || has_one_form(other))
            && Raw::new(one).to_datum() == Raw::new(other).to_datum()
}

/// [`is_same`] of what may not be there.
pub fn are_same<T: AsRef<[u8]>>(one: Option<&T>, other: Option<&T>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => is_same(one.as_ref(), other.as_ref()),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// The binary form of `datum` in a fresh buffer.
pub fn to_bytes(datum: &Datum) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    encode(datum, &mut out);
    out
}

pub(crate) fn encode_number(number: f64, out: &mut Vec<u8>) {
    let small = number as u32;
    if f64::from(small).to_bits() == number.to_bits() {
        out.push(SMALL_INTEGER);
        put_varint(small, out);
    } else {
        out.push(NUMBER);
        out.extend_from_slice(&number.to_le_bytes());
    }
}

/// Writes a container whose length is known only at its end.
pub(crate) struct BodyWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> BodyWriter<'a> {
    pub fn begin(tag: u8, out: &'a mut Vec<u8>) -> BodyWriter<'a> {
        out.push(tag);
        out.extend_from_slice(&[0; 4]);
        let start = out.len();
        BodyWriter { out, start }
    }
    /// Leaves a body under way to be written to directly; where [`BodyWriter::again`] takes it up.
    pub fn leave(self) -> usize {
        self.start
    }
    pub fn again(start: usize, out: &'a mut Vec<u8>) -> BodyWriter<'a> {
        BodyWriter { out, start }
    }
    pub fn count(&mut self, count: usize) {
        put_varint(u32::try_from(count).expect("a value is smaller than 4 GiB"), self.out);
    }
    pub fn raw(&mut self, body: &[u8]) {
        self.out.extend_from_slice(body);
    }
    /// Gives an object that is worth it a directory.
    pub fn add_directory(&mut self) {
        let (count, first) = varint_at(&self.out[self.start..], 0).expect(BROKEN);
        let first = self.start + first;
        let bytes = self.out.len() - first;
        if count < DIRECTORY_PAIRS_MIN || !DIRECTORY_FOR_BYTES.contains(&bytes) {
            return;
        }
        self.out[self.start - 5] = INDEXED_OBJECT;
        let directory = ENTRY * count as usize;
        let pairs = first + directory;
        self.out.resize(pairs + bytes, 0);
        self.out.copy_within(first..first + bytes, pairs);
        // Most objects have few pairs: nothing is allocated for them.
        let (mut few, mut many) = ([0; FEW_PAIRS], Vec::new());
        let ends = match few.get_mut(..count as usize) {
            Some(few) => few,
            None => {
                many.resize(count as usize, 0);
                many.as_mut_slice()
            }
        };
        let (mut at, mut near_bytes, mut is_mixed) = (pairs, 0, false);
        for known in ends.iter_mut() {
            let (length, start) = length_at(self.out, at);
            let value = start + length as usize;
            let end = skip(self.out, value);
            *known = (end - pairs) as u32;
            if end - value <= NEAR_VALUE_BYTES {
                *known |= NEAR;
                is_mixed |= at - pairs != near_bytes;
                near_bytes += end - at;
            }
            at = end;
        }
        let (mut start, mut near, mut far) = (0, 0, near_bytes as u32);
        let entries = self.out[first..pairs].as_chunks_mut().0;
        for (entry, end) in entries.iter_mut().zip(ends.iter()) {
            let place = if end & NEAR != 0 { &mut near } else { &mut far };
            *entry = (*place as u16).to_le_bytes();
            *place += (end & !NEAR) - start;
            start = end & !NEAR;
        }
        if is_mixed {
            near_first(&mut self.out[pairs..], ends, near_bytes);
        }
    }
    pub fn end(self) {
        let bytes = u32::try_from(self.out.len() - self.start).expect("a value is smaller than 4 GiB");
        self.out[self.start - 4..self.start].copy_from_slice(&bytes.to_le_bytes());
    }
}

/// Set beside the end of a pair that is to stand near the directory. Pairs of objects with one have fewer bytes.
const NEAR: u32 = 1 << 31;

/// Brings the near ones of these pairs before the others, given where each ends.
fn near_first(pairs: &mut [u8], ends: &[u32], near_bytes: usize) {
    let mut near = Vec::with_capacity(near_bytes);
    let mut start = 0;
    for end in ends {
        let end_at = (end & !NEAR) as usize;
        if end & NEAR != 0 {
            near.extend_from_slice(&pairs[start..end_at]);
        }
        start = end_at;
    }
    // The others move up in runs, the last first.
    let (mut to, mut run) = (pairs.len(), pairs.len()..pairs.len());
    for place in (0..ends.len()).rev() {
        let start = place.checked_sub(1).map_or(0, |before| (ends[before] & !NEAR) as usize);
        if ends[place] & NEAR == 0 {
            run.start = start;
        } else {
            to -= run.len();
            pairs.copy_within(run, to);
            run = start..start;
        }
    }
    to -= run.len();
    pairs.copy_within(run, to);
    pairs[..to].copy_from_slice(&near);
}

/// Appends LEB128.
pub fn put_varint(mut value: u32, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length and the bytes.
pub fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(u32::try_from(bytes.len()).expect("a value is smaller than 4 GiB"), out);
    out.extend_from_slice(bytes);
}

/// Reads LEB128 at `at`: the value and the offset behind it; `None` when it is cut or over 32 bits.
pub fn varint_at(bytes: &[u8], at: usize) -> Option<(u32, usize)> {
    let mut value = 0u64;
    for index in 0..5 {
        let byte = *bytes.get(at + index)?;
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Some((u32::try_from(value).ok()?, at + index + 1));
        }
    }
    None
}

/// [`varint_at`] of bytes that are known to be whole.
#[inline]
pub(super) fn length_at(bytes: &[u8], at: usize) -> (u32, usize) {
    match bytes[at] {
        short @ ..0x80 => (u32::from(short), at + 1),
        _ => varint_at(bytes, at).expect(BROKEN),
    }
}

/// The value that fills `bytes`, as a view that shares them.
///
/// # Panics
/// When the bytes are not a value made by [`encode`]; foreign bytes go through [`check`] first.
pub fn decode(bytes: Slice) -> Datum {
    value_at(&bytes, 0, Trust::Readable).0
}

/// [`decode`] of bytes that may be stored as they are: a stored document's, or constants of a query. What is taken from it
/// unchanged is not looked at again before it is stored.
pub fn decode_storable(bytes: Slice) -> Datum {
    value_at(&bytes, 0, Trust::StorableAt(0)).0
}

/// What is known of a view's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// They are a value.
    Readable,
    /// They are part, so many levels deep, of something that may be stored: no bound, no literal, no array that is too
    /// long, no more levels than allowed.
    StorableAt(u32),
}

impl Trust {
    fn inside(self) -> Trust {
        match self {
            Trust::Readable => Trust::Readable,
            Trust::StorableAt(level) => Trust::StorableAt(level + 1),
        }
    }
}

/// [`decode`] of bytes that are not shared yet.
pub fn from_bytes(bytes: &[u8]) -> Datum {
    decode(Slice::new(Rc::from(bytes)))
}

const BROKEN: &str = "an encoded value is whole: it is checked or checksummed before it is viewed";

/// The value at `at` and the offset behind it.
fn value_at(slice: &Slice, at: usize, trust: Trust) -> (Datum, usize) {
    let bytes: &[u8] = slice;
    let end = skip(bytes, at);
    let datum = match bytes[at] {
        NULL => Datum::Null,
        FALSE => Datum::Bool(false),
        TRUE => Datum::Bool(true),
        NUMBER => Datum::Number(double_at(bytes, at + 1)),
        SMALL_INTEGER => Datum::Number(f64::from(length_at(bytes, at + 1).0)),
        STRING => Datum::String(Text::from_slice(slice.part(length_at(bytes, at + 1).1, end))),
        BINARY => Datum::Binary(slice.part(length_at(bytes, at + 1).1, end)),
        TIME => Datum::Time(Time {
            epoch_seconds: double_at(bytes, at + 1),
            zone_minutes: i16::from_le_bytes(bytes[at + 9..at + 11].try_into().expect(BROKEN)),
        }),
        ARRAY => Datum::Array(Array::view(View { body: slice.part(at + 5, end), form: Form::Items, trust })),
        OBJECT => {
            Datum::Object(Object::view(View { body: slice.part(at + 5, end), form: Form::Pairs, trust }))
        }
        INDEXED_OBJECT => {
            let body = slice.part(at + 5, end);
            Datum::Object(Object::view(View { body, form: Form::IndexedPairs, trust }))
        }
        MINVAL => Datum::MinVal,
        MAXVAL => Datum::MaxVal,
        tag => unreachable!("{BROKEN}: tag {tag}"),
    };
    (datum, end)
}

pub(super) fn double_at(bytes: &[u8], at: usize) -> f64 {
    f64::from_le_bytes(bytes[at..at + 8].try_into().expect(BROKEN))
}

/// The offset behind the value at `at`.
pub(super) fn skip(bytes: &[u8], at: usize) -> usize {
    match bytes[at] {
        NULL | FALSE | TRUE | MINVAL | MAXVAL => at + 1,
        NUMBER => at + 9,
        SMALL_INTEGER => length_at(bytes, at + 1).1,
        STRING | BINARY => {
            let (length, start) = length_at(bytes, at + 1);
            start + length as usize
        }
        TIME => at + 11,
        ARRAY | OBJECT | INDEXED_OBJECT => {
            at + 5 + u32::from_le_bytes(bytes[at + 1..at + 5].try_into().expect(BROKEN)) as usize
        }
        tag => unreachable!("{BROKEN}: tag {tag}"),
    }
}

/// What a container's body holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Items,
    Pairs,
    /// A directory and pairs.
    IndexedPairs,
}

impl Form {
    fn tag(self) -> u8 {
        match self {
            Form::Items => ARRAY,
            Form::Pairs => OBJECT,
            Form::IndexedPairs => INDEXED_OBJECT,
        }
    }

    /// How many items or pairs begin there, and where the first does.
    pub(super) fn begin(self, bytes: &[u8], at: usize) -> (u32, usize) {
        let (count, first) = length_at(bytes, at);
        match self {
            Form::Items | Form::Pairs => (count, first),
            Form::IndexedPairs => (count, first + ENTRY * count as usize),
        }
    }
}

/// The body of an array or object inside an encoded value.
#[derive(Clone)]
pub struct View {
    body: Slice,
    form: Form,
    trust: Trust,
}

impl View {
    pub(super) fn bytes(&self) -> usize {
        self.body.len()
    }

    /// Whether it is known that it may be stored `level` levels deep in a document.
    pub(super) fn is_storable_at(&self, level: u32) -> bool {
        matches!(self.trust, Trust::StorableAt(own) if own >= level)
    }

    /// Whether both view the same bytes.
    pub(super) fn is_same(&self, other: &View) -> bool {
        self.form == other.form && self.body.is_same(&other.body)
    }

    pub(super) fn count(&self) -> usize {
        self.form.begin(&self.body, 0).0 as usize
    }

    pub(super) fn items(&self) -> Items<'_> {
        let (count, at) = self.form.begin(&self.body, 0);
        Items { slice: &self.body, at, left: count, trust: self.trust.inside() }
    }

    pub(super) fn pairs(&self) -> Pairs<'_> {
        let places = Places::of(&self.body, 0, self.form);
        Pairs { slice: &self.body, places, trust: self.trust.inside() }
    }

    /// The item at a place, where the next one's is left.
    pub(super) fn item_at(&self, place: &mut Place) -> Option<Datum> {
        let mut items = self.items();
        if place.index > 0 {
            (items.at, items.left) = (place.at, items.left.saturating_sub(place.index as u32));
        }
        let item = items.next();
        place.at = items.at;
        item
    }

    /// The pair at a place, where the next one's is left.
    pub(super) fn pair_at(&self, place: &mut Place) -> Option<(Text, Datum)> {
        let mut pairs = self.pairs();
        if place.index > 0 {
            pairs.places.go_on(place.index, place.at);
        }
        let pair = pairs.next();
        place.at = pairs.places.at;
        pair
    }

    pub(super) fn field(&self, key: &str) -> Option<Datum> {
        let value = match self.form {
            Form::Items => None,
            Form::Pairs => find_pair(&self.body, key.as_bytes()),
            Form::IndexedPairs => Directory::at(&self.body, 0).find(key.as_bytes()).map(|(_, value)| value),
        }?;
        Some(value_at(&self.body, value, self.trust.inside()).0)
    }

    /// The name of a bound among what the container holds, at any depth.
    pub(super) fn bound(&self) -> Option<&'static str> {
        bound_at(&self.body, 0, self.form)
    }

    /// [`write_json`] of the container.
    pub(super) fn write_json(&self, out: &mut Vec<u8>) {
        match self.form {
            Form::Items => drop(array_json(&self.body, 0, out)),
            Form::Pairs | Form::IndexedPairs => object_json(&self.body, 0, self.form, out),
        }
    }
}

/// Where the value of a field of an object without a directory is, looked for pair by pair.
pub(super) fn find_pair(body: &[u8], key: &[u8]) -> Option<usize> {
    let (count, mut at) = length_at(body, 0);
    for _ in 0..count {
        let (length, start) = length_at(body, at);
        let end = start + length as usize;
        match body[start..end].cmp(key) {
            std::cmp::Ordering::Less => at = skip(body, end),
            std::cmp::Ordering::Equal => return Some(end),
            std::cmp::Ordering::Greater => return None,
        }
    }
    None
}

/// Whether keys are equal. Byte by byte where they are short: the library compares in blocks of 32 bytes, and of a field at the
/// end of a line of memory that waits for the line behind it.
#[inline]
fn is_same_key(found: &[u8], key: &[u8]) -> bool {
    if found.len() != key.len() {
        return false;
    }
    if key.len() > 16 {
        return found == key;
    }
    found.iter().zip(key).fold(0, |differs, (found, key)| differs | (found ^ key)) == 0
}

/// The directory of an object's body that begins at some offset of `bytes`.
#[derive(Clone, Copy)]
pub(super) struct Directory<'a> {
    bytes: &'a [u8],
    entries: usize,
    count: usize,
}

impl<'a> Directory<'a> {
    #[inline]
    pub fn at(bytes: &'a [u8], body: usize) -> Directory<'a> {
        let (count, entries) = length_at(bytes, body);
        Directory { bytes, entries, count: count as usize }
    }

    /// At least 1.
    pub fn count(self) -> usize {
        self.count
    }

    /// Where a key's value begins. The search begins at `hint` and leaves there what it found.
    #[inline]
    pub fn find_near(self, key: &[u8], hint: &mut usize) -> Option<usize> {
        if *hint < self.count {
            let (found, value) = self.key(*hint);
            if is_same_key(found, key) {
                return Some(value);
            }
        }
        let (index, value) = self.find(key)?;
        *hint = index;
        Some(value)
    }

    /// The first byte of the first key; 0 when that is empty.
    #[inline]
    pub fn first_byte(self) -> u8 {
        let (length, start) = length_at(self.bytes, self.pair(0));
        if length == 0 { 0 } else { self.bytes[start] }
    }

    /// The offset of a pair.
    #[inline]
    pub fn pair(self, index: usize) -> usize {
        let entry = self.entries + ENTRY * index;
        let offset = u16::from_le_bytes(self.bytes[entry..entry + ENTRY].try_into().expect(BROKEN));
        self.entries + ENTRY * self.count + usize::from(offset)
    }

    /// The key of a pair, and where its value begins.
    #[inline]
    pub fn key(self, index: usize) -> (&'a [u8], usize) {
        let (length, start) = length_at(self.bytes, self.pair(index));
        let end = start + length as usize;
        (&self.bytes[start..end], end)
    }

    /// The index of a key's pair, and where its value begins.
    pub fn find(self, key: &[u8]) -> Option<(usize, usize)> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            let (found, value) = self.key(middle);
            match found.cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some((middle, value)),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }
}

/// Walks the items of an array view.
pub struct Items<'a> {
    slice: &'a Slice,
    at: usize,
    left: u32,
    trust: Trust,
}

impl Iterator for Items<'_> {
    type Item = Datum;
    fn next(&mut self) -> Option<Datum> {
        self.left = self.left.checked_sub(1)?;
        let (datum, end) = value_at(self.slice, self.at, self.trust);
        self.at = end;
        Some(datum)
    }
}

/// Where the entries of a container begin, one after the other: items, or pairs in the order of their keys.
pub(super) struct Places<'a> {
    /// The pairs' directory, if they have one: they may stand in another order.
    directory: Option<Directory<'a>>,
    index: usize,
    count: usize,
    /// Behind the last that was given.
    at: usize,
}

impl<'a> Places<'a> {
    /// Of a container whose body begins at some offset.
    pub fn of(bytes: &'a [u8], body: usize, form: Form) -> Places<'a> {
        let (count, at) = form.begin(bytes, body);
        let directory = (form == Form::IndexedPairs).then(|| Directory::at(bytes, body));
        Places { directory, index: 0, count: count as usize, at }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    fn go_on(&mut self, index: usize, at: usize) {
        (self.index, self.at) = (index, at);
    }

    /// Where the next one begins; [`Places::ended`] is to be told where it ends.
    #[inline]
    pub fn next(&mut self) -> Option<usize> {
        if self.index >= self.count {
            return None;
        }
        self.index += 1;
        Some(self.directory.map_or(self.at, |directory| directory.pair(self.index - 1)))
    }

    #[inline]
    pub fn ended(&mut self, at: usize) {
        self.at = at;
    }
}

/// Walks the pairs of an object view.
pub struct Pairs<'a> {
    slice: &'a Slice,
    places: Places<'a>,
    trust: Trust,
}

impl Iterator for Pairs<'_> {
    type Item = (Text, Datum);
    fn next(&mut self) -> Option<(Text, Datum)> {
        let (length, start) = length_at(self.slice, self.places.next()?);
        let key_end = start + length as usize;
        let (datum, end) = value_at(self.slice, key_end, self.trust);
        self.places.ended(end);
        Some((Text::from_slice(self.slice.part(start, key_end)), datum))
    }
}

/// Why foreign bytes are not a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("the value is cut at byte {at}")]
    Cut { at: usize },
    #[error("byte {at} holds the unknown tag {tag}")]
    Tag { at: usize, tag: u8 },
    #[error("the text at byte {at} is not UTF-8")]
    Utf8 { at: usize },
    #[error("the number at byte {at} is not finite")]
    Number { at: usize },
    #[error("the keys of the object at byte {at} are not sorted and unique")]
    Keys { at: usize },
    #[error("the directory of the object at byte {at} does not say where its pairs begin")]
    Directory { at: usize },
    #[error("the container at byte {at} has another length than its items")]
    Length { at: usize },
    #[error("the value nests deeper than {}", limits::DATUM_DEPTH_MAX)]
    Depth,
}

/// Proves that `bytes` is exactly one value, so that viewing it cannot panic.
///
/// # Errors
/// The first thing that is wrong, with its offset.
pub fn check(bytes: &[u8]) -> Result<(), DocumentError> {
    let end = check_at(bytes, 0, 0)?;
    if end == bytes.len() { Ok(()) } else { Err(DocumentError::Length { at: 0 }) }
}

fn check_at(bytes: &[u8], at: usize, depth: u32) -> Result<usize, DocumentError> {
    if depth > limits::DATUM_DEPTH_MAX {
        return Err(DocumentError::Depth);
    }
    let cut = DocumentError::Cut { at };
    let need = |count: usize| if bytes.len() >= at + count { Ok(at + count) } else { Err(cut.clone()) };
    match *bytes.get(at).ok_or(cut.clone())? {
        NULL | FALSE | TRUE | MINVAL | MAXVAL => Ok(at + 1),
        NUMBER | TIME => {
            let end = need(if bytes[at] == NUMBER { 9 } else { 11 })?;
            if double_at(bytes, at + 1).is_finite() { Ok(end) } else { Err(DocumentError::Number { at }) }
        }
        SMALL_INTEGER => varint_at(bytes, at + 1).map(|(_, end)| end).ok_or(cut),
        STRING => {
            let (text, end) = check_bytes(bytes, at + 1)?;
            std::str::from_utf8(text).map_err(|_| DocumentError::Utf8 { at })?;
            Ok(end)
        }
        BINARY => Ok(check_bytes(bytes, at + 1)?.1),
        tag @ (ARRAY | OBJECT | INDEXED_OBJECT) => {
            let start = need(5)?;
            let length = u32::from_le_bytes(bytes[at + 1..start].try_into().expect("four bytes")) as usize;
            let end = start.checked_add(length).filter(|end| *end <= bytes.len()).ok_or(cut.clone())?;
            let (count, mut here) = varint_at(&bytes[..end], start).ok_or(cut)?;
            let mut previous: Option<&[u8]> = None;
            // Where pairs must begin, in the order of their places.
            let mut starts = Vec::new();
            if tag == INDEXED_OBJECT {
                let pairs = here.checked_add(ENTRY * count as usize).filter(|pairs| *pairs <= end);
                here = pairs.ok_or(DocumentError::Cut { at })?;
                let directory = Directory::at(&bytes[..end], start);
                // Readers look at the first pair.
                if count == 0 {
                    return Err(DocumentError::Directory { at });
                }
                starts.extend((0..count as usize).map(|index| directory.pair(index)));
                starts.sort_unstable();
            }
            for index in 0..count as usize {
                if starts.get(index).is_some_and(|start| *start != here) {
                    return Err(DocumentError::Directory { at });
                }
                if tag != ARRAY {
                    let (key, after) = check_bytes(&bytes[..end], here)?;
                    std::str::from_utf8(key).map_err(|_| DocumentError::Utf8 { at: here })?;
                    if tag == OBJECT && previous.is_some_and(|previous| previous >= key) {
                        return Err(DocumentError::Keys { at });
                    }
                    previous = Some(key);
                    here = after;
                }
                here = check_at(&bytes[..end], here, depth + 1)?;
            }
            if tag == INDEXED_OBJECT {
                let directory = Directory::at(&bytes[..end], start);
                let is_sorted = |index| directory.key(index - 1).0 < directory.key(index).0;
                if !(1..count as usize).all(is_sorted) {
                    return Err(DocumentError::Keys { at });
                }
            }
            if here == end { Ok(end) } else { Err(DocumentError::Length { at }) }
        }
        tag => Err(DocumentError::Tag { at, tag }),
    }
}

fn check_bytes(bytes: &[u8], at: usize) -> Result<(&[u8], usize), DocumentError> {
    let (length, start) = varint_at(bytes, at).ok_or(DocumentError::Cut { at })?;
    let end = start.checked_add(length as usize).filter(|end| *end <= bytes.len());
    let end = end.ok_or(DocumentError::Cut { at })?;
    Ok((&bytes[start..end], end))
}

/// Writes a stored value as JSON without building it: the way of a `get`'s reply.
pub fn write_json(bytes: &[u8], out: &mut Vec<u8>) {
    json_at(bytes, 0, out);
}

fn array_json(bytes: &[u8], at: usize, out: &mut Vec<u8>) -> usize {
    let (count, mut here) = length_at(bytes, at);
    out.push(b'[');
    for index in 0..count {
        if index > 0 {
            out.push(b',');
        }
        here = json_at(bytes, here, out);
    }
    out.push(b']');
    here
}

fn object_json(bytes: &[u8], at: usize, form: Form, out: &mut Vec<u8>) {
    if form == Form::IndexedPairs {
        let directory = Directory::at(bytes, at);
        return pairs_json(bytes, directory.count(), |index, _| directory.pair(index), out);
    }
    let (count, first) = form.begin(bytes, at);
    pairs_json(bytes, count as usize, |index, end| if index == 0 { first } else { end }, out);
}

/// Writes so many pairs, given where each begins by its number and the end of the one before.
#[inline]
fn pairs_json(bytes: &[u8], count: usize, place: impl Fn(usize, usize) -> usize, out: &mut Vec<u8>) {
    let mut end = 0;
    out.push(b'{');
    for index in 0..count {
        if index == 0 {
            out.push(b'"');
        } else {
            out.extend_from_slice(b",\"");
        }
        let (length, start) = length_at(bytes, place(index, end));
        let key_end = start + length as usize;
        super::json::write_escaped(&bytes[start..key_end], out);
        out.extend_from_slice(b"\":");
        end = json_at(bytes, key_end, out);
    }
    out.push(b'}');
}

fn bound_at(bytes: &[u8], at: usize, form: Form) -> Option<&'static str> {
    let mut places = Places::of(bytes, at, form);
    while let Some(mut here) = places.next() {
        if form != Form::Items {
            let (length, start) = length_at(bytes, here);
            here = start + length as usize;
        }
        let found = match bytes[here] {
            MINVAL => Some("r.minval"),
            MAXVAL => Some("r.maxval"),
            ARRAY => bound_at(bytes, here + 5, Form::Items),
            OBJECT => bound_at(bytes, here + 5, Form::Pairs),
            INDEXED_OBJECT => bound_at(bytes, here + 5, Form::IndexedPairs),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
        places.ended(skip(bytes, here));
    }
    None
}

fn json_at(bytes: &[u8], at: usize, out: &mut Vec<u8>) -> usize {
    use super::json;
    match bytes[at] {
        NULL => out.extend_from_slice(b"null"),
        FALSE => out.extend_from_slice(b"false"),
        TRUE => out.extend_from_slice(b"true"),
        NUMBER => json::write_number(double_at(bytes, at + 1), out),
        SMALL_INTEGER => json::write_small_integer(length_at(bytes, at + 1).0, out),
        STRING => {
            let (length, start) = length_at(bytes, at + 1);
            let end = start + length as usize;
            json::write_string(&bytes[start..end], out);
            return end;
        }
        ARRAY => return array_json(bytes, at + 5, out),
        OBJECT => object_json(bytes, at + 5, Form::Pairs, out),
        INDEXED_OBJECT => object_json(bytes, at + 5, Form::IndexedPairs, out),
        BINARY | TIME | MINVAL | MAXVAL => {
            let end = skip(bytes, at);
            json::write(&from_bytes(&bytes[at..end]), out);
            return end;
        }
        tag => unreachable!("{BROKEN}: tag {tag}"),
    }
    skip(bytes, at)
}
