//! Reads the log from a place to its end.
//!
//! The end is the first place where no frame continues the chain; a record that is not whole there was never acknowledged.
//! Where a frame lies anywhere that was written after that place had been flushed, the log is damaged in its middle:
//! [`LogReader::damage`] finds that, so that nobody takes a part of the log for all of it. A disk may have put the frame before
//! the place, and over what lay there: so it is looked for where nothing was read, not only behind.
//! Frames are read through a window, so that a log of many small ones takes few reads.

use crate::disk::{Directory, Disk, DiskError, OpenMode};
use crate::engine::StorageError;
use crate::wal::frame::{self, Begins, FrameHead};
use crate::wal::log::{Place, Segment, segment_name, segment_number};
use crate::wal::record::{self, Record};

/// Read at once, unless a frame is longer.
const WINDOW_BYTES: u32 = 512 << 10;

pub(crate) struct LogReader<'a, D: Directory> {
    directory: &'a D,
    began: Place,
    /// Behind the last frame that was read.
    pub place: Place,
    segment: Option<Segment<D::File>>,
    window: Vec<u8>,
    window_offset: u64,
    /// Bytes of records that are read and not taken yet.
    carry: Vec<u8>,
    taken: usize,
}

impl<'a, D: Directory> LogReader<'a, D> {
    pub fn new(directory: &'a D, place: Place) -> Self {
        Self {
            directory,
            began: place,
            place,
            segment: None,
            window: Vec::new(),
            window_offset: 0,
            carry: Vec::new(),
            taken: 0,
        }
    }

    /// The segment at the end of the log, after everything was read.
    pub fn into_segment(self) -> Option<Segment<D::File>> {
        self.segment
    }

    /// The next record; `None` at the end of the log.
    pub async fn next<T>(&mut self, take: impl FnOnce(Record<'_>) -> T) -> Result<Option<T>, StorageError> {
        loop {
            match record::decode(&self.carry[self.taken..]) {
                Ok(Some((_, bytes))) => {
                    let start = self.taken;
                    self.taken += bytes;
                    let decoded = record::decode(&self.carry[start..]);
                    let Ok(Some((record, _))) = decoded else { return Ok(None) };
                    return Ok(Some(take(record)));
                }
                Ok(None) => {}
                Err(what) => {
                    let file = segment_name(self.place.segment);
                    return Err(StorageError::Corrupt { file, offset: self.place.offset, what });
                }
            }
            self.carry.drain(..self.taken);
            self.taken = 0;
            if !self.next_frame().await? {
                return Ok(None);
            }
        }
    }

    /// What is wrong with the log at the end that was found, if it is not the end. All segments behind are looked at: the one
    /// that comes next may be what is damaged, or missing.
    pub async fn damage(&self) -> Result<Option<StorageError>, StorageError> {
        let mut numbers: Vec<u64> =
            self.directory.list().await?.iter().filter_map(|name| segment_number(name)).collect();
        numbers.retain(|number| *number >= self.place.segment);
        numbers.sort_unstable();
        for number in numbers {
            let read = match number == self.place.segment {
                true if number == self.began.segment => self.began.offset..self.place.offset,
                true => 0..self.place.offset,
                false => 0..0,
            };
            for unread in [0..read.start, read.end..u64::MAX] {
                if let Some(offset) = self.find_later(number, unread).await? {
                    return Ok(Some(self.damaged(number, offset)));
                }
            }
        }
        Ok(None)
    }

    /// Where in a segment a frame lies that was written when more was flushed than has been read.
    async fn find_later(
        &self,
        number: u64,
        within: std::ops::Range<u64>,
    ) -> Result<Option<u64>, StorageError> {
        if within.is_empty() {
            return Ok(None);
        }
        let file = self.directory.open(&segment_name(number), OpenMode::Existing).await?;
        let end = within.end.min(file.length().await? / 4096 * 4096);
        let mut offset = within.start;
        while offset < end {
            let bytes = (end - offset).min(u64::from(WINDOW_BYTES)) as u32;
            let window = file.read(offset, bytes).await?;
            for start in (0..window.len()).step_by(4096) {
                let Some(payload) = frame::payload_bytes(&window[start..]) else { continue };
                let frame_bytes = frame::frame_bytes(payload);
                let found = if start + frame_bytes as usize <= window.len() {
                    frame::flushed_before(&window[start..], number)
                } else {
                    let whole = file.read(offset + start as u64, frame_bytes).await?;
                    frame::flushed_before(&whole, number)
                };
                if found.is_some_and(|flushed| flushed > self.place.position) {
                    return Ok(Some(offset + start as u64));
                }
            }
            offset += u64::from(bytes);
        }
        Ok(None)
    }

    fn damaged(&self, segment: u64, offset: u64) -> StorageError {
        let what = format!(
            "the log is damaged here: what lies in {} at offset {offset} was written after this had been flushed",
            segment_name(segment)
        );
        StorageError::Corrupt { file: segment_name(self.place.segment), offset: self.place.offset, what }
    }

    async fn next_frame(&mut self) -> Result<bool, StorageError> {
        if !self.open_segment().await? {
            return Ok(false);
        }
        let Some(segment) = &self.segment else { return Ok(false) };
        if self.place.offset >= segment.bytes {
            return Ok(false);
        }
        let head = FrameHead {
            begins: Begins::Record,
            position: self.place.position,
            segment: self.place.segment,
            previous: self.place.previous,
            back: 0,
        };
        let mut wanted = 4096;
        for _ in 0..2 {
            let start = self.place.offset.wrapping_sub(self.window_offset);
            let has = usize::try_from(start).ok().and_then(|start| self.window.get(start..)).unwrap_or(&[]);
            if has.len() < wanted as usize {
                let left = u32::try_from(segment.bytes - self.place.offset).unwrap_or(u32::MAX);
                let bytes = WINDOW_BYTES.max(wanted).min(left);
                self.window = segment.file.read(self.place.offset, bytes).await?.to_vec();
                self.window_offset = self.place.offset;
            }
            let start = (self.place.offset - self.window_offset) as usize;
            let Some(payload) = frame::payload_bytes(&self.window[start..]) else { return Ok(false) };
            wanted = frame::frame_bytes(payload);
        }
        let start = (self.place.offset - self.window_offset) as usize;
        let Some((begins, payload, sum)) = frame::decode(&self.window[start..], &head) else {
            return Ok(false);
        };
        match begins {
            Begins::Record => self.carry.clear(),
            Begins::Middle => {}
        }
        self.carry.extend_from_slice(payload);
        self.place.position += payload.len() as u64;
        self.place.offset += u64::from(wanted);
        self.place.previous = sum;
        Ok(true)
    }

    /// Makes sure that the place's segment is open, going on to the next when one is read to its end.
    async fn open_segment(&mut self) -> Result<bool, StorageError> {
        let is_at_end = |segment: &Segment<D::File>, place: &Place| {
            segment.number == place.segment && place.offset >= segment.bytes
        };
        if let Some(segment) = &self.segment
            && !is_at_end(segment, &self.place)
        {
            return Ok(true);
        }
        let number = match &self.segment {
            None => self.place.segment,
            Some(_) => self.place.segment + 1,
        };
        let file = match self.directory.open(&segment_name(number), OpenMode::Existing).await {
            Ok(file) => file,
            Err(DiskError::NotFound { .. }) if self.segment.is_some() => return Ok(false),
            Err(DiskError::NotFound { file }) => {
                let what = "the segment where the log begins is missing".to_owned();
                return Err(StorageError::Corrupt { file, offset: 0, what });
            }
            Err(error) => return Err(error.into()),
        };
        let bytes = file.length().await? / 4096 * 4096;
        let next = Segment { number, bytes, file };
        if self.segment.is_none() && is_at_end(&next, &self.place) {
            self.segment = Some(next);
            return Box::pin(self.open_segment()).await;
        }
        // The next segment is the log's only if a frame in it continues the chain; else the end stays where it is.
        if self.segment.is_some() && !self.continues(&next).await? {
            return Ok(false);
        }
        if number != self.place.segment {
            self.place.segment = number;
            self.place.offset = 0;
        }
        self.window.clear();
        self.window_offset = 0;
        self.segment = Some(next);
        Ok(true)
    }

    async fn continues(&self, next: &Segment<D::File>) -> Result<bool, StorageError> {
        if next.bytes == 0 {
            return Ok(false);
        }
        let first = next.file.read(0, 4096).await?;
        let Some(payload) = frame::payload_bytes(&first) else { return Ok(false) };
        let bytes = u64::from(frame::frame_bytes(payload));
        if bytes > next.bytes {
            return Ok(false);
        }
        let whole = next.file.read(0, bytes as u32).await?;
        let head = FrameHead {
            begins: Begins::Record,
            position: self.place.position,
            segment: next.number,
            previous: self.place.previous,
            back: 0,
        };
        Ok(frame::decode(&whole, &head).is_some())
    }
}
