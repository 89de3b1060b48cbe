//! Documents made smaller: zstd, with a dictionary of the table where there is one.
//!
//! ```text
//! how 0   the value as it is
//! how 1   a zstd frame without its magic number
//! how 2   the same, made with a dictionary whose number stands in the frame's head
//! ```
//!
//! Always: what is stored is never larger than the value itself, and the plain length is known from elsewhere, so a frame
//! does not repeat it. A small document hardly repeats itself, so alone it compresses badly; a dictionary made of a few
//! thousand documents of its table holds their field names and usual values. A dictionary that documents were stored with
//! is kept as long as its table. Prepared dictionaries are kept in memory up to a bound, the longest unused goes.
//!
//! With a dictionary a value is packed in one of two ways: thoroughly, at the level that was asked for, or quickly, at a level that looks at
//! every fifth place only but still packs what does not repeat itself by how often its letters come. Documents of text that nothing else has
//! become hardly larger by the quick way, in less than half of the time; those that are made of what others have too become a tenth larger.
//! Which are which is seen from values that are packed both ways now and then ([`Packer`]).

use std::collections::BTreeMap;
use std::rc::Rc;

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx, DDict, ParamSwitch};

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Where the number of a dictionary stands in it, behind its magic number.
const NUMBER_AT: usize = 4;
/// Dictionaries held ready for reading, and for writing: a prepared one takes some 45 and 400 KiB.
const READERS_MAX: usize = 32;
const WRITERS_MAX: usize = 4;
/// The level of the quick way.
const QUICK_LEVEL: i32 = -4;
/// The quick way is taken while it makes values larger by no more than this, in percent.
const QUICK_GROWTH_MAX: u64 = 3;
/// The first values of a dictionary are packed both ways, and then one in so many.
const BOTH_WAYS_FIRST: u32 = 16;
const BOTH_WAYS_EVERY: u32 = 64;
/// Of older values half is forgotten when the newer come to so many bytes.
const REMEMBERED_BYTES: u64 = 1 << 20;

/// How a value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Plain,
    Alone,
    WithDictionary,
}

impl How {
    pub fn number(self) -> u8 {
        match self {
            How::Plain => 0,
            How::Alone => 1,
            How::WithDictionary => 2,
        }
    }

    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(How::Plain),
            1 => Some(How::Alone),
            2 => Some(How::WithDictionary),
            _ => None,
        }
    }
}

/// Why a value was not made plain again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unready {
    /// The dictionary of this number must be loaded first.
    Dictionary(u32),
    Broken(String),
}

/// Writes the store's number of a dictionary into it.
pub(crate) fn number_dictionary(bytes: &mut [u8], number: u32) {
    bytes[NUMBER_AT..NUMBER_AT + 4].copy_from_slice(&number.to_le_bytes());
}

struct Prepared<T> {
    dictionary: T,
    last_use: u64,
}

/// Dictionaries ready for use, the longest unused going first.
struct Ready<T> {
    by_number: BTreeMap<u32, Prepared<T>>,
    max: usize,
}

impl<T> Ready<T> {
    fn new(max: usize) -> Self {
        Self { by_number: BTreeMap::new(), max }
    }

    fn add(&mut self, number: u32, dictionary: T, now: u64) {
        self.by_number.insert(number, Prepared { dictionary, last_use: now });
        if self.by_number.len() > self.max
            && let Some(oldest) = self.by_number.iter().min_by_key(|(_, one)| one.last_use)
        {
            let oldest = *oldest.0;
            self.by_number.remove(&oldest);
        }
    }

    fn find(&mut self, number: u32, now: u64) -> Option<&mut T> {
        let prepared = self.by_number.get_mut(&number)?;
        prepared.last_use = now;
        Some(&mut prepared.dictionary)
    }
}

/// Packs values with one dictionary, in the way that suits them.
struct Packer {
    thorough: CCtx<'static>,
    quick: CCtx<'static>,
    /// Values since the dictionary was prepared.
    values: u32,
    /// Of values that were packed both ways.
    thorough_bytes: u64,
    quick_bytes: u64,
}

impl Packer {
    fn new(dictionary: &[u8], level: i32) -> Option<Self> {
        let prepared = |level| {
            let mut encoder = encoder(level);
            encoder.load_dictionary(dictionary).ok()?;
            Some(encoder)
        };
        let (thorough, quick) = (prepared(level)?, prepared(QUICK_LEVEL)?);
        Some(Packer { thorough, quick, values: 0, thorough_bytes: 0, quick_bytes: 0 })
    }

    fn is_quick(&self) -> bool {
        self.quick_bytes * 100 <= self.thorough_bytes * (100 + QUICK_GROWTH_MAX)
    }

    /// Packs a value into `frame`, which has room for it.
    fn pack(&mut self, value: &[u8], frame: &mut Vec<u8>) -> Option<()> {
        self.values = self.values.wrapping_add(1);
        if self.values > BOTH_WAYS_FIRST && !self.values.is_multiple_of(BOTH_WAYS_EVERY) {
            let encoder = if self.is_quick() { &mut self.quick } else { &mut self.thorough };
            return encoder.compress2(frame, value).ok().map(drop);
        }
        self.quick_bytes += self.quick.compress2(frame, value).ok()? as u64;
        frame.clear();
        self.thorough_bytes += self.thorough.compress2(frame, value).ok()? as u64;
        if self.thorough_bytes > REMEMBERED_BYTES {
            self.quick_bytes /= 2;
            self.thorough_bytes /= 2;
        }
        Some(())
    }
}

/// What compresses at a level, without the sizes that slots know.
fn encoder(level: i32) -> CCtx<'static> {
    let mut encoder = CCtx::create();
    let parameters = [
        CParameter::CompressionLevel(level),
        CParameter::LiteralCompressionMode(ParamSwitch::Enable),
        CParameter::ContentSizeFlag(false),
    ];
    for parameter in parameters {
        encoder.set_parameter(parameter).expect("zstd knows its own parameters");
    }
    encoder
}

/// Compresses and decompresses for one store.
pub(crate) struct Codec {
    level: i32,
    encoder: CCtx<'static>,
    decoder: DCtx<'static>,
    readers: Ready<DDict<'static>>,
    writers: Ready<Packer>,
    uses: u64,
    frame: Vec<u8>,
    plain: Vec<u8>,
}

impl Codec {
    pub fn new(level: i32) -> Self {
        Self {
            level,
            encoder: encoder(level),
            decoder: DCtx::create(),
            readers: Ready::new(READERS_MAX),
            writers: Ready::new(WRITERS_MAX),
            uses: 0,
            frame: Vec::new(),
            plain: Vec::new(),
        }
    }

    /// Takes a dictionary that was read from disk.
    pub fn add_reader(&mut self, number: u32, bytes: &[u8]) -> Result<(), String> {
        let dictionary = DDict::try_create(bytes).ok_or("the dictionary is broken")?;
        self.readers.add(number, dictionary, self.uses);
        Ok(())
    }

    pub fn has_writer(&mut self, number: u32) -> bool {
        self.writers.find(number, self.uses).is_some()
    }

    pub fn add_writer(&mut self, number: u32, bytes: &[u8]) {
        if let Some(packer) = Packer::new(bytes, self.level) {
            self.writers.add(number, packer, self.uses);
        }
    }

    /// The stored form of a value, if it is smaller by an eighth at least.
    pub fn compress(&mut self, value: &[u8], dictionary: Option<u32>) -> Option<(How, &[u8])> {
        self.uses += 1;
        self.frame.clear();
        self.frame.reserve(zstd_safe::compress_bound(value.len()));
        let packer = dictionary.and_then(|number| self.writers.find(number, self.uses));
        let how = match packer {
            Some(packer) => {
                packer.pack(value, &mut self.frame)?;
                How::WithDictionary
            }
            None => {
                self.encoder.compress2(&mut self.frame, value).ok()?;
                How::Alone
            }
        };
        let stored = self.frame.strip_prefix(&MAGIC)?;
        (stored.len() + value.len() / 8 < value.len()).then_some((how, stored))
    }

    /// The value of so many bytes that was stored like this.
    pub fn plain(&mut self, how: How, stored: &[u8], plain_bytes: usize) -> Result<Rc<[u8]>, Unready> {
        if how == How::Plain {
            return Ok(Rc::from(stored));
        }
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        let read = self.append_plain(stored, plain_bytes, &mut plain).map(|()| Rc::from(&plain[..]));
        self.plain = plain;
        read
    }

    /// Appends the value of so many bytes that was compressed to this. Nothing is appended when that fails.
    pub fn append_plain(
        &mut self,
        stored: &[u8],
        plain_bytes: usize,
        target: &mut Vec<u8>,
    ) -> Result<(), Unready> {
        self.uses += 1;
        self.frame.clear();
        self.frame.extend_from_slice(&MAGIC);
        self.frame.extend_from_slice(stored);
        let start = target.len();
        target.resize(start + plain_bytes, 0);
        let plain = &mut target[start..];
        let read = match zstd_safe::get_dict_id_from_frame(&self.frame) {
            Some(number) => {
                let number = number.get();
                match self.readers.find(number, self.uses) {
                    Some(prepared) => self.decoder.decompress_using_ddict(plain, &self.frame, prepared),
                    None => {
                        target.truncate(start);
                        return Err(Unready::Dictionary(number));
                    }
                }
            }
            None => self.decoder.decompress(plain, &self.frame),
        };
        let broken = match read {
            Ok(found) if found == plain_bytes => return Ok(()),
            Ok(found) => format!("its value has {found} bytes, want {plain_bytes}"),
            Err(code) => {
                format!("its value cannot be decompressed: {}", zstd_safe::get_error_name(code))
            }
        };
        target.truncate(start);
        Err(Unready::Broken(broken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::{Random, document};
    use crate::train::Training;

    fn training_of(count: usize, mut document: impl FnMut() -> Vec<u8>) -> Training {
        let mut training = Training { table: (*b"t").into(), samples: vec![], sample_bytes: vec![] };
        for _ in 0..count {
            let document = document();
            training.sample_bytes.push(document.len());
            training.samples.extend_from_slice(&document);
        }
        training
    }

    fn training(count: usize) -> Training {
        let mut random = Random::new(1);
        training_of(count, || document(&mut random))
    }

    /// A name, and letters of which none comes back.
    fn letters(random: &mut Random) -> Vec<u8> {
        let mut text = b"{\"text\":\"".to_vec();
        text.extend(random.bytes(1000).into_iter().map(|byte| b'a' + byte % 26));
        text
    }

    #[test]
    fn what_gains_nothing_from_a_thorough_search_is_packed_quickly() {
        let mut random = Random::new(5);
        let mut dictionary = training_of(500, || letters(&mut random)).train();
        number_dictionary(&mut dictionary.bytes, 7);
        let (mut customers, mut noise) = (Codec::new(1), Codec::new(1));
        let mut of_customers = training(1500).train();
        number_dictionary(&mut of_customers.bytes, 7);
        customers.add_writer(7, &of_customers.bytes);
        noise.add_writer(7, &dictionary.bytes);
        noise.add_reader(7, &dictionary.bytes).unwrap();
        for _ in 0..200 {
            customers.compress(&document(&mut random), Some(7)).unwrap();
            let text = letters(&mut random);
            let (how, stored) = noise.compress(&text, Some(7)).unwrap();
            let stored = stored.to_vec();
            // 26 letters take 4.7 bits each.
            assert!(stored.len() < 660, "{} bytes", stored.len());
            assert_eq!(*noise.plain(how, &stored, text.len()).unwrap(), text[..]);
        }
        assert!(noise.writers.find(7, 0).unwrap().is_quick());
        assert!(!customers.writers.find(7, 0).unwrap().is_quick());
    }

    #[test]
    fn a_dictionary_makes_documents_of_300_bytes_less_than_half_as_large_as_zstd_alone() {
        let mut dictionary = training(1500).train();
        number_dictionary(&mut dictionary.bytes, 7);
        let mut codec = Codec::new(1);
        codec.add_writer(7, &dictionary.bytes);
        codec.add_reader(7, &dictionary.bytes).unwrap();
        let mut random = Random::new(2);
        let (mut plain, mut alone, mut with) = (0, 0, 0);
        for _ in 0..1000 {
            let document = document(&mut random);
            plain += document.len();
            for (number, bytes) in [(None, &mut alone), (Some(7), &mut with)] {
                let stored = codec.compress(&document, number).map(|(how, stored)| (how, stored.to_vec()));
                let (how, stored) = stored.unwrap_or((How::Plain, document.clone()));
                *bytes += stored.len();
                assert_eq!(*codec.plain(how, &stored, document.len()).unwrap(), document[..]);
            }
        }
        println!("{plain} bytes plain, {alone} alone, {with} with a dictionary");
        assert!(plain / 1000 > 250 && plain / 1000 < 350, "documents of {} bytes", plain / 1000);
        assert!(with * 2 < alone, "{with} bytes with a dictionary, {alone} without");
    }

    #[test]
    fn a_dictionary_that_is_not_loaded_is_asked_for() {
        let mut dictionary = training(1500).train();
        number_dictionary(&mut dictionary.bytes, 300);
        let mut codec = Codec::new(3);
        codec.add_writer(300, &dictionary.bytes);
        let document = document(&mut Random::new(3));
        let (how, stored) = codec.compress(&document, Some(300)).unwrap();
        let stored = stored.to_vec();
        assert_eq!(how, How::WithDictionary);
        assert_eq!(codec.plain(how, &stored, document.len()), Err(Unready::Dictionary(300)));
        codec.add_reader(300, &dictionary.bytes).unwrap();
        assert_eq!(*codec.plain(how, &stored, document.len()).unwrap(), document[..]);
        for wrong in [document.len() - 1, document.len() + 1] {
            assert!(matches!(codec.plain(how, &stored, wrong), Err(Unready::Broken(_))));
        }
        assert!(codec.plain(How::Alone, &stored[..4], document.len()).is_err());
    }

    #[test]
    fn noise_stays_as_it_is() {
        assert_eq!(Codec::new(1).compress(&Random::new(4).bytes(2000), None), None);
        assert!(Codec::new(1).compress(&[7; 2000], None).is_some());
    }
}
