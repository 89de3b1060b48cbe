//! What requests are made of: keys, documents, and the records that a run believes to be there. One per thread.
//!
//! Always: record `i` of a table has one key and one first content, whoever loads it; records that a thread inserts are chosen
//! only after the server has acknowledged them and all that the thread inserted before.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::choose::{Chooser, Distribution, Random};

/// Values of the field `bucket`, which the secondary index is of.
pub const BUCKETS: u64 = 1000;
/// A year: a document that says more is not ours.
const SENT_MICROS_MAX: u64 = 365 * 86_400_000_000;
/// A range asks for at most so many documents where YCSB draws their number.
const RANGE_MAX: u64 = 100;

/// What documents look like: `id`, the number `n`, `bucket`, and so many fields of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub fields: u32,
    /// Bytes of each text.
    pub text_bytes: u32,
}

impl Shape {
    /// Documents of about `bytes` bytes of JSON with so many fields, at least `id`, `n` and `bucket`.
    pub fn new(fields: u32, bytes: u32) -> Shape {
        // {"id":"user000000000001","n":1,"bucket":1} and ,"field0":""
        const FIXED: u32 = 48;
        const PER_FIELD: u32 = 12;
        let texts = fields.saturating_sub(3).max(1);
        let text_bytes = bytes.saturating_sub(FIXED + texts * PER_FIELD) / texts;
        Shape { fields: texts, text_bytes: text_bytes.max(1) }
    }
}

/// What a thread is told at its start.
#[derive(Clone, Debug)]
pub struct Origin {
    pub seed: u64,
    pub thread: u64,
    pub threads: u64,
    /// Records of the table before the run.
    pub records: u64,
    pub shape: Shape,
    pub distribution: Distribution,
    /// Records inserted in this run are numbered from here, so that no two runs insert the same.
    pub first_insert: u64,
    /// When times in documents count from.
    pub epoch: Instant,
}

/// See the head of the file.
pub struct World {
    pub random: Random,
    chooser: Chooser,
    shape: Shape,
    records: u64,
    /// The number of the first record that this thread inserts, and the distance from one to the next: threads take turns.
    first_insert: u64,
    insert_step: u64,
    /// Records that this thread has inserted, counted up to the first that is not acknowledged.
    settled: u64,
    /// Whether those behind are.
    unsettled: VecDeque<bool>,
    epoch: Instant,
}

impl World {
    pub fn new(origin: &Origin) -> World {
        let mut seeds = Random(origin.seed);
        seeds.0 = seeds.0.wrapping_add(origin.thread << 32);
        World {
            random: Random(seeds.draw()),
            chooser: Chooser::new(origin.distribution, origin.records.max(1)),
            shape: origin.shape,
            records: origin.records,
            first_insert: origin.first_insert + origin.thread,
            insert_step: origin.threads,
            settled: 0,
            unsettled: VecDeque::new(),
            epoch: origin.epoch,
        }
    }

    /// A record that is there.
    pub fn choose(&mut self) -> u64 {
        self.chooser.choose((self.records + self.settled).max(1), &mut self.random)
    }

    /// Begins to insert so many records; the first of them.
    pub fn begin_insert(&mut self, count: u64) -> u64 {
        let first = self.records + self.settled + self.unsettled.len() as u64;
        self.unsettled.extend((0..count).map(|_| false));
        first
    }

    /// Records from `first` on are there, or will never be.
    pub fn settle(&mut self, first: u64, count: u64) {
        for record in first..first + count {
            let place = record.checked_sub(self.records + self.settled).map(|place| place as usize);
            if let Some(is_settled) = place.and_then(|place| self.unsettled.get_mut(place)) {
                *is_settled = true;
            }
        }
        while self.unsettled.front() == Some(&true) {
            self.unsettled.pop_front();
            self.settled += 1;
        }
    }

    /// The number that a record's key is made of: those of this run lie far behind those that were loaded.
    pub fn number(&self, record: u64) -> u64 {
        match record.checked_sub(self.records) {
            Some(inserted) => self.first_insert + inserted * self.insert_step,
            None => record,
        }
    }

    pub fn put_key(&self, record: u64, out: &mut Vec<u8>) {
        put_key(self.number(record), out);
    }

    /// The document that a record begins as.
    pub fn put_document(&self, record: u64, out: &mut Vec<u8>) {
        put_document(self.number(record), self.shape, out);
    }

    /// A document with one field, of another text.
    pub fn put_change(&mut self, out: &mut Vec<u8>) {
        let field = self.random.below(self.shape.fields.into());
        out.extend_from_slice(b"{\"field");
        put_number(field, out);
        out.extend_from_slice(b"\":");
        self.put_text(out);
        out.push(b'}');
    }

    pub fn put_text(&mut self, out: &mut Vec<u8>) {
        out.push(b'"');
        put_letters(self.shape.text_bytes, &mut self.random, out);
        out.push(b'"');
    }

    /// How many documents a range of YCSB's workload E asks for.
    pub fn range_length(&mut self) -> u64 {
        1 + self.random.below(RANGE_MAX)
    }

    pub fn records(&self) -> u64 {
        self.records
    }

    /// Microseconds from the run's epoch to `at`.
    pub fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_micros() as u64
    }

    /// When a document was to be sent that says so.
    pub fn sent_at(&self, micros: u64) -> Instant {
        self.epoch + Duration::from_micros(micros.min(SENT_MICROS_MAX))
    }
}

/// `"user000000000001"`: like YCSB's keys, and in the order of their numbers.
pub fn put_key(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"user");
    let mut digits = [b'0'; 20];
    let mut rest = number;
    let mut at = digits.len();
    while rest > 0 || at > digits.len() - 12 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&digits[at..]);
    out.push(b'"');
}

pub fn put_document(number: u64, shape: Shape, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"id\":");
    put_key(number, out);
    out.extend_from_slice(b",\"n\":");
    put_number(number, out);
    out.extend_from_slice(b",\"bucket\":");
    put_number(number % BUCKETS, out);
    let mut random = Random(number);
    for field in 0..shape.fields {
        out.extend_from_slice(b",\"field");
        put_number(field.into(), out);
        out.extend_from_slice(b"\":\"");
        put_letters(shape.text_bytes, &mut random, out);
        out.push(b'"');
    }
    out.push(b'}');
}

pub fn put_number(number: u64, out: &mut Vec<u8>) {
    use std::io::Write as _;
    write!(out, "{number}").expect("writing to memory does not fail");
}

/// Letters at random: text that compresses about as well as hexadecimal does, and no better for being repeated.
fn put_letters(count: u32, random: &mut Random, out: &mut Vec<u8>) {
    let end = out.len() + count as usize;
    while out.len() < end {
        let letters = random.draw().to_le_bytes().map(|byte| b'a' + ((u16::from(byte) * 26) >> 8) as u8);
        out.extend_from_slice(&letters);
    }
    out.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> World {
        World::new(&Origin {
            seed: 1,
            thread: 0,
            threads: 2,
            records: 100,
            shape: Shape::new(13, 1100),
            distribution: Distribution::Latest,
            first_insert: 1_000_000,
            epoch: Instant::now(),
        })
    }

    #[test]
    fn documents_have_the_size_and_the_fields_asked_for() {
        for (fields, bytes) in [(13, 1100), (4, 100), (13, 20_000), (103, 2_000)] {
            let mut out = Vec::new();
            put_document(150_000, Shape::new(fields, bytes), &mut out);
            let document: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
            assert_eq!(document.as_object().map(serde_json::Map::len), Some(fields as usize));
            let size = out.len() as f64;
            assert!((size / f64::from(bytes) - 1.0).abs() < 0.15, "{fields} fields, {bytes} bytes: {size}");
        }
    }

    #[test]
    fn keys_sort_as_their_numbers() {
        let key = |number| {
            let mut out = Vec::new();
            put_key(number, &mut out);
            String::from_utf8(out).expect("text")
        };
        assert_eq!(key(0), "\"user000000000000\"");
        assert_eq!(key(42), "\"user000000000042\"");
        assert_eq!(key(1_234_567_890_123_456), "\"user1234567890123456\"");
    }

    #[test]
    fn an_inserted_record_is_chosen_only_when_all_before_it_are_acknowledged() {
        let mut world = world();
        let (first, second) = (world.begin_insert(1), world.begin_insert(1));
        assert_eq!((first, second, world.settled), (100, 101, 0));
        world.settle(second, 1);
        assert_eq!(world.settled, 0);
        world.settle(first, 1);
        assert_eq!(world.settled, 2);
        assert_eq!([99, 100, 101].map(|record| world.number(record)), [99, 1_000_000, 1_000_002]);
        assert_eq!(world.begin_insert(5), 102);
    }
}
