//! The rows that every engine gets, and chance.
//!
//! Always: a row follows from its number and version alone, so all engines get the same ones and the program keeps none.

use std::time::Instant;

pub type Row = (Vec<u8>, Vec<u8>);

/// Bytes of a key, and of a value.
pub const KEY_BYTES: usize = 16;
pub const VALUE_BYTES: usize = 1100;

/// A stream of numbers that follows from its seed (SplitMix64: Steele, Lea and Flood, 2014).
pub struct Random(pub u64);

impl Random {
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }
}

/// The key of a row. Neighbouring rows have keys far apart, as random ids have.
pub fn key(number: u64) -> Vec<u8> {
    format!("{:016x}", Random(number.wrapping_mul(0xd134_2543_de82_ef95)).number()).into_bytes()
}

/// A document of 1.1 KB: the same fields in each, half of its bytes noise in hexadecimal digits.
fn value(number: u64, version: u64) -> Vec<u8> {
    let mut random = Random(number ^ version << 48);
    let mut text = String::with_capacity(1200);
    for field in 0..13 {
        let (noise, more) = (random.number(), random.number());
        text += &format!(
            "\"field_number_{field}\":{{\"state\":\"delivered\",\"amount\":{},\"note\":\"{noise:016x}{more:016x}\"}},",
            random.below(100_000)
        );
    }
    text.truncate(VALUE_BYTES);
    text.into_bytes()
}

pub fn row(number: u64, version: u64) -> Row {
    (key(number), value(number, version))
}

/// One writer's share of rows that were made before: every so many-th, around and around, until the time is over.
pub struct Share<'a> {
    pub rows: &'a [Row],
    pub next: usize,
    pub step: usize,
    pub until: Instant,
}

impl<'a> Iterator for Share<'a> {
    type Item = &'a Row;

    fn next(&mut self) -> Option<&'a Row> {
        let row = &self.rows[self.next % self.rows.len()];
        self.next += self.step;
        (Instant::now() < self.until).then_some(row)
    }
}
