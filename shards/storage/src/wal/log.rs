//! The log of a running store: records queue in memory, one flush writes and syncs all that wait.
//!
//! Always: one flush is in flight at a time, and the next batch fills meanwhile, so any number of committers share it and
//! frames reach the disk in order. A segment is filled to its last block before the next begins. Records are accepted only
//! while the segments that are already on disk have room for them ([`Log::has_room`]), so a full disk refuses a batch before
//! it was applied, never after. A flush that failed is not tried again: what the disk kept of it is unknown, so the log says
//! so for ever after.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::disk::{Directory, Disk, DiskError, OpenMode};
use crate::engine::StorageError;
use crate::event::Event;
use crate::wal::frame::{self, Begins, FRAME_HEADER_BYTES, FrameHead, PAYLOAD_BYTES_MAX};

/// What padding and heads may cost a run of records, beside their bytes: two blocks for each frame.
const FRAME_WASTE_BYTES: u64 = 8192;
/// Recycled segments kept beyond what was in the log between two checkpoints.
const SPARES_MAX: usize = 2;
/// Segments that are removed after one checkpoint: removing a file keeps disk and processor busy for milliseconds.
const REMOVED_MAX: usize = 2;
/// Length of the one segment that stands ready behind the log of a closed store.
pub(crate) const SHORT_SEGMENT_BYTES: u64 = 1 << 20;

/// A place in the log where a frame begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub segment: u64,
    pub offset: u64,
    /// Bytes of records before it.
    pub position: u64,
    /// Checksum of the frame before it.
    pub previous: u64,
}

pub(crate) struct Segment<F> {
    pub number: u64,
    pub bytes: u64,
    pub file: F,
}

struct State<F> {
    pending: Vec<u8>,
    /// The buffer that [`State::pending`] takes turns with.
    emptied: Vec<u8>,
    applied: u64,
    flushed: u64,
    wanted: u64,
    place: Place,
    current: Rc<Segment<F>>,
    spares: VecDeque<Rc<Segment<F>>>,
    /// Numbers of segments on disk that no recovery needs.
    retired: Vec<u64>,
    oldest: u64,
    cut: Option<u64>,
    cut_place: Option<Place>,
    in_flight: bool,
    making_spare: bool,
    failed: Option<String>,
    flushes: u64,
    written: u64,
}

pub(crate) struct Log<F> {
    state: RefCell<State<F>>,
    segment_bytes: u64,
    /// A flush ended, or failed.
    pub done: Event,
    /// Somebody waits for a flush.
    pub wanted: Event,
}

pub(crate) fn segment_name(number: u64) -> String {
    format!("wal-{number:010}")
}

pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("wal-")?;
    digits.parse().ok().filter(|_| digits.len() == 10)
}

/// Makes a segment file of its full length; durable when this returns.
pub(crate) async fn make_segment<D: Directory>(
    directory: &D,
    number: u64,
    bytes: u64,
) -> Result<Segment<D::File>, DiskError> {
    let file = directory.open(&segment_name(number), OpenMode::Create).await?;
    file.preallocate(bytes).await?;
    file.sync().await?;
    directory.sync().await?;
    Ok(Segment { number, bytes, file })
}

/// What recovery found of the log.
pub(crate) struct Found<F> {
    pub place: Place,
    pub current: Segment<F>,
    pub spares: Vec<Segment<F>>,
    pub retired: Vec<u64>,
    pub oldest: u64,
}

/// Marks the log as failed if a flush is dropped half-way: nobody knows then what reached the disk.
struct FlushGuard<'a, F> {
    log: &'a Log<F>,
    ended: bool,
}

impl<F> Drop for FlushGuard<'_, F> {
    fn drop(&mut self) {
        if !self.ended {
            self.log.fail("a flush was abandoned");
        }
    }
}

impl<F: Disk> Log<F> {
    pub fn new(found: Found<F>, segment_bytes: u64) -> Self {
        Self {
            state: RefCell::new(State {
                pending: Vec::new(),
                emptied: Vec::new(),
                applied: found.place.position,
                flushed: found.place.position,
                wanted: 0,
                place: found.place,
                current: Rc::new(found.current),
                spares: found.spares.into_iter().map(Rc::new).collect(),
                retired: found.retired,
                oldest: found.oldest,
                cut: None,
                cut_place: None,
                in_flight: false,
                making_spare: false,
                failed: None,
                flushes: 0,
                written: 0,
            }),
            segment_bytes,
            done: Event::default(),
            wanted: Event::default(),
        }
    }

    /// Queues what `append` writes; the log's end behind it.
    pub fn push(&self, append: impl FnOnce(&mut Vec<u8>)) -> u64 {
        let mut state = self.state.borrow_mut();
        let before = state.pending.len();
        append(&mut state.pending);
        state.applied += (state.pending.len() - before) as u64;
        state.applied
    }

    pub fn applied(&self) -> u64 {
        self.state.borrow().applied
    }

    pub fn flushes(&self) -> u64 {
        self.state.borrow().flushes
    }

    pub fn written(&self) -> u64 {
        self.state.borrow().written
    }

    pub fn disk_bytes(&self) -> u64 {
        let state = self.state.borrow();
        let before = state.current.number - state.oldest + state.retired.len() as u64;
        let spares: u64 = state.spares.iter().map(|spare| spare.bytes).sum();
        before * self.segment_bytes + state.current.bytes + spares
    }

    pub fn failure(&self) -> Option<StorageError> {
        let state = self.state.borrow();
        state.failed.as_ref().map(|reason| StorageError::ReadOnly { reason: reason.clone() })
    }

    /// Whether the segments on disk can take `bytes` more of records.
    pub fn has_room(&self, bytes: u64) -> bool {
        let state = self.state.borrow();
        self.room(&state) >= self.worst(&state, bytes)
    }

    fn room(&self, state: &State<F>) -> u64 {
        state.current.bytes - state.place.offset + state.spares.iter().map(|spare| spare.bytes).sum::<u64>()
    }

    fn worst(&self, state: &State<F>, bytes: u64) -> u64 {
        let in_flight = state.applied - state.flushed;
        let total = in_flight + bytes;
        total + (total / PAYLOAD_BYTES_MAX as u64 + 4) * FRAME_WASTE_BYTES
    }

    /// Whether there is less room left than a segment and a half.
    pub fn wants_spare(&self) -> bool {
        let state = self.state.borrow();
        state.failed.is_none() && self.room(&state) * 2 < self.segment_bytes * 3
    }

    /// Makes or recycles segments until `bytes` more have room.
    pub async fn make_room<D: Directory<File = F>>(
        &self,
        directory: &D,
        bytes: u64,
    ) -> Result<(), StorageError> {
        while !self.has_room(bytes) {
            self.make_spare(directory).await?;
        }
        Ok(())
    }

    /// One more segment behind the last.
    pub async fn make_spare<D: Directory<File = F>>(&self, directory: &D) -> Result<(), StorageError> {
        let done = self.done.listen();
        let Some((number, recycled)) = self.begin_spare()? else {
            done.await;
            return Ok(());
        };
        let made = self.ready_segment(directory, number, recycled).await;
        {
            let mut state = self.state.borrow_mut();
            state.making_spare = false;
            if let Ok(segment) = made.as_ref() {
                state.spares.push_back(Rc::clone(segment));
            }
        }
        self.done.notify();
        match made {
            Ok(_) => Ok(()),
            Err(DiskError::Full { file }) => {
                Err(StorageError::Full { reason: format!("no room for {file}") })
            }
            Err(error) => {
                self.fail(&error.to_string());
                Err(StorageError::ReadOnly { reason: error.to_string() })
            }
        }
    }

    /// The number of the next segment and of the file to recycle for it; `None` when one is being made.
    fn begin_spare(&self) -> Result<Option<(u64, Option<u64>)>, StorageError> {
        let mut state = self.state.borrow_mut();
        if let Some(reason) = &state.failed {
            return Err(StorageError::ReadOnly { reason: reason.clone() });
        }
        if std::mem::replace(&mut state.making_spare, true) {
            return Ok(None);
        }
        let last = state.spares.back().map_or(state.current.number, |spare| spare.number);
        Ok(Some((last + 1, state.retired.pop())))
    }

    async fn ready_segment<D: Directory<File = F>>(
        &self,
        directory: &D,
        number: u64,
        recycled: Option<u64>,
    ) -> Result<Rc<Segment<F>>, DiskError> {
        let name = segment_name(number);
        if let Some(old) = recycled {
            directory.rename(&segment_name(old), &name).await?;
        }
        match make_segment(directory, number, self.segment_bytes).await {
            Ok(segment) => Ok(Rc::new(segment)),
            Err(error) => {
                // A segment that is not whole must not be found later as if it were.
                let _ = directory.remove(&name).await;
                Err(error)
            }
        }
    }

    /// Waits until the log is durable up to `position`; somebody else drives [`Log::flush_once`].
    pub async fn wait(&self, position: u64) -> Result<(), StorageError> {
        loop {
            let done = self.done.listen();
            {
                let mut state = self.state.borrow_mut();
                if state.flushed >= position {
                    return Ok(());
                }
                if let Some(reason) = &state.failed {
                    return Err(StorageError::ReadOnly { reason: reason.clone() });
                }
                state.wanted = state.wanted.max(position);
            }
            self.wanted.notify();
            done.await;
        }
    }

    pub fn flushed(&self) -> u64 {
        self.state.borrow().flushed
    }

    /// Whether a flush should run: somebody waits, or much is queued.
    pub fn is_flush_due(&self, queued_bytes_max: u64) -> bool {
        let state = self.state.borrow();
        let queued = state.pending.len() as u64;
        let is_asked = state.wanted > state.flushed || state.cut.is_some();
        state.failed.is_none() && !state.in_flight && queued > 0 && (is_asked || queued >= queued_bytes_max)
    }

    pub fn is_flushing(&self) -> bool {
        self.state.borrow().in_flight
    }

    /// Marks the end of what is applied as the place where recovery will begin: a frame ends there.
    pub fn cut(&self) -> u64 {
        let mut state = self.state.borrow_mut();
        let position = state.applied;
        state.cut_place = None;
        state.cut = Some(position);
        if state.flushed == position {
            state.cut_place = Some(state.place);
            state.cut = None;
        }
        position
    }

    /// The place of the last [`Log::cut`], once the log is flushed up to it.
    pub fn cut_place(&self) -> Option<Place> {
        self.state.borrow().cut_place
    }

    /// Makes what is queued durable. Returns at once when a flush is in flight or nothing is queued.
    pub async fn flush_once(&self) -> Result<(), StorageError> {
        let (payload, start) = {
            let mut state = self.state.borrow_mut();
            if let Some(reason) = &state.failed {
                return Err(StorageError::ReadOnly { reason: reason.clone() });
            }
            if state.in_flight || state.pending.is_empty() {
                return Ok(());
            }
            state.in_flight = true;
            let start = state.place.position;
            let end = state.cut.unwrap_or(state.applied);
            let taken = (end - start) as usize;
            let mut fresh = std::mem::take(&mut state.emptied);
            fresh.extend_from_slice(&state.pending[taken..]);
            state.pending.truncate(taken);
            (std::mem::replace(&mut state.pending, fresh), start)
        };
        let mut guard = FlushGuard { log: self, ended: false };
        let written = self.write(&payload).await;
        guard.ended = true;
        match written {
            Ok(()) => {
                let mut state = self.state.borrow_mut();
                state.in_flight = false;
                state.flushed = start + payload.len() as u64;
                state.flushes += 1;
                state.written += payload.len() as u64;
                if state.cut == Some(state.flushed) {
                    state.cut = None;
                    state.cut_place = Some(state.place);
                }
                state.emptied = payload;
                state.emptied.clear();
                if state.emptied.capacity() > 4 << 20 {
                    state.emptied = Vec::new();
                }
                drop(state);
                self.done.notify();
                Ok(())
            }
            Err(error) => {
                self.fail(&error.to_string());
                Err(StorageError::ReadOnly { reason: error.to_string() })
            }
        }
    }

    async fn write(&self, payload: &[u8]) -> Result<(), DiskError> {
        let mut rest = payload;
        let mut begins = Begins::Record;
        let mut segment = Rc::clone(&self.state.borrow().current);
        while !rest.is_empty() {
            let mut place = self.state.borrow().place;
            if place.offset >= segment.bytes {
                let mut state = self.state.borrow_mut();
                let Some(next) = state.spares.pop_front() else {
                    return Err(DiskError::Full { file: segment_name(segment.number + 1) });
                };
                state.current = Rc::clone(&next);
                state.place.segment = next.number;
                state.place.offset = 0;
                place = state.place;
                segment = next;
            }
            let fits = (segment.bytes - place.offset) as usize - FRAME_HEADER_BYTES;
            let (piece, behind) = rest.split_at(rest.len().min(fits).min(PAYLOAD_BYTES_MAX));
            let bytes = frame::frame_bytes(piece.len());
            let mut buffer = segment.file.buffer(bytes);
            let head = FrameHead {
                begins,
                position: place.position,
                segment: place.segment,
                previous: place.previous,
                back: (payload.len() - rest.len()) as u32,
            };
            let sum = frame::encode(head, piece, buffer.as_mut());
            segment.file.write_durably(place.offset, buffer).await?;
            let mut state = self.state.borrow_mut();
            state.place.offset += u64::from(bytes);
            state.place.position += piece.len() as u64;
            state.place.previous = sum;
            rest = behind;
            begins = Begins::Middle;
        }
        Ok(())
    }

    /// Segments before this place are not needed any more.
    pub async fn retire<D: Directory>(&self, directory: &D, place: Place) -> Result<(), DiskError> {
        let surplus = {
            let mut state = self.state.borrow_mut();
            let retired = state.oldest..place.segment;
            let needed = retired.clone().count().max(SPARES_MAX);
            state.oldest = state.oldest.max(place.segment);
            state.retired.extend(retired);
            let surplus = state.retired.len().saturating_sub(needed).min(REMOVED_MAX);
            let keep = state.retired.len() - surplus;
            state.retired.split_off(keep)
        };
        for number in surplus {
            directory.remove(&segment_name(number)).await?;
        }
        Ok(())
    }

    /// Gives back what the log of a store that closes keeps for what comes next, but for one segment, which is cut short: should
    /// the disk be full when the store is opened, deletes find room there until a checkpoint makes the segment before it needless.
    pub async fn give_back<D: Directory<File = F>>(&self, directory: &D) -> Result<(), StorageError> {
        let wants_one = {
            let state = self.state.borrow();
            if state.failed.is_some() || state.making_spare || state.flushed < state.applied {
                return Ok(());
            }
            state.spares.is_empty() && !state.retired.is_empty()
        };
        if wants_one {
            self.make_spare(directory).await?;
        }
        let (spares, retired) = {
            let mut state = self.state.borrow_mut();
            // What was queued meanwhile was promised their room.
            if state.flushed < state.applied {
                return Ok(());
            }
            (std::mem::take(&mut state.spares), std::mem::take(&mut state.retired))
        };
        for number in spares.iter().skip(1).map(|spare| spare.number).chain(retired) {
            directory.remove(&segment_name(number)).await?;
        }
        if let Some(kept) = spares.front().filter(|kept| kept.bytes > SHORT_SEGMENT_BYTES) {
            kept.file.truncate(SHORT_SEGMENT_BYTES).await?;
            kept.file.sync().await?;
        }
        Ok(directory.sync().await?)
    }
}

impl<F> Log<F> {
    pub fn fail(&self, reason: &str) {
        {
            let mut state = self.state.borrow_mut();
            state.in_flight = false;
            if state.failed.is_none() {
                state.failed = Some(reason.to_owned());
                tracing::error!(reason, "the store is read-only from now on");
            }
        }
        self.done.notify();
        self.wanted.notify();
    }
}
