//! Dictionaries made of documents of a table.
//!
//! By COVER (Liao, Petri, Moffat, Wirth: "Effective construction of relative Lempel-Ziv dictionaries", 2016) as zstd has it. What zstd does by
//! itself is to try it with five lengths of segments, packing a quarter of the samples after each: 130 to 170 ms for half a
//! megabyte, where one length that suits documents takes 9 ms, of a quarter of a megabyte 5 ms, and what is packed becomes larger by 1%.
//! That matters where a core shares its processor with the threads for slow work. `unsafe` here is that one call,
//! which the safe bindings do not have: it reads the samples, by their lengths, and writes into the buffer, all of which outlive it.

use zstd::zstd_safe::zstd_sys;

/// A dictionary's bytes: at 16 KiB a table of small documents has most of the gain, and a hundred tables cost little memory.
const DICTIONARY_BYTES_MAX: usize = 16 << 10;
/// What is put into a dictionary at a time.
const SEGMENT_BYTES: u32 = 1024;
/// Segments are chosen by how often runs of this length come.
const RUN_BYTES: u32 = 8;
/// Those are counted in a table of two to this places, which a core's own cache holds.
const TABLE_BITS: u32 = 16;
/// The level at which is seen how often what comes, for the tables in the dictionary.
const LEVEL: i32 = 1;

/// Documents of a table, for whoever has time to make a dictionary of them.
#[derive(Debug)]
pub struct Training {
    pub(crate) table: Box<[u8]>,
    pub(crate) samples: Vec<u8>,
    /// Lengths of the samples, which lie one after the other.
    pub(crate) sample_bytes: Vec<usize>,
}

/// A dictionary for the documents of a table.
#[derive(Debug)]
pub struct Dictionary {
    pub(crate) table: Box<[u8]>,
    /// Empty where the documents have too little in common.
    pub(crate) bytes: Vec<u8>,
}

impl Training {
    /// Makes the dictionary: some tens of milliseconds of pure CPU, so not on a core.
    pub fn train(self) -> Dictionary {
        let bytes = trained(&self.samples, &self.sample_bytes).unwrap_or_default();
        Dictionary { table: self.table, bytes }
    }
}

#[allow(unsafe_code)]
fn trained(samples: &[u8], sample_bytes: &[usize]) -> Option<Vec<u8>> {
    if sample_bytes.iter().sum::<usize>() != samples.len() {
        return None;
    }
    let parameters = zstd_sys::ZDICT_fastCover_params_t {
        k: SEGMENT_BYTES,
        d: RUN_BYTES,
        f: TABLE_BITS,
        steps: 0,
        nbThreads: 1,
        splitPoint: 1.0,
        accel: 1,
        shrinkDict: 0,
        shrinkDictMaxRegression: 0,
        zParams: zstd_sys::ZDICT_params_t { compressionLevel: LEVEL, notificationLevel: 0, dictID: 0 },
    };
    let count = u32::try_from(sample_bytes.len()).ok()?;
    let mut bytes = vec![0; DICTIONARY_BYTES_MAX];
    // SAFETY: the buffer has the capacity that is told; the lengths are as many as told and come to the samples' bytes.
    let written = unsafe {
        zstd_sys::ZDICT_trainFromBuffer_fastCover(
            bytes.as_mut_ptr().cast(),
            bytes.len(),
            samples.as_ptr().cast(),
            sample_bytes.as_ptr(),
            count,
            parameters,
        )
    };
    // What is an error is a number above every size.
    bytes.truncate(written);
    (written <= DICTIONARY_BYTES_MAX).then_some(bytes)
}
