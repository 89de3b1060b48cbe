//! Making, writing, dropping and finding the segments of change logs.
//!
//! Always: whoever changes files holds the lock. A write that fails costs the log, not the store: what it kept is removed, and
//! [`ChangeLogs::tend`] begins it anew when it can. So does a write that is broken off.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::segment::{self, Head, Site, file_name, of_file_name};
use super::{Buffer, ChangeLog, ChangeLogs, LogState, Retention, Segment, WRITE_BYTES};
use crate::disk::{BLOCK_BYTES, Directory, Disk, DiskError, OpenMode};

/// A segment is closed after this part of the age that is kept.
const AGE_PART: u64 = 8;

/// A frame that is to be written.
struct Outgoing {
    payload: Vec<u8>,
    count: u32,
    last: BTreeMap<u32, u64>,
    time_ms: u64,
}

impl Buffer {
    /// Changes whose records end at or before `flushed`, as many as one frame takes.
    fn take(&mut self, flushed: u64) -> Option<Outgoing> {
        let (mut bytes, mut count, mut last) = (0, 0, BTreeMap::new());
        let time_ms = self.changes.front()?.time_ms;
        let chunk_bytes = self.chunks.front()?.len();
        while let Some(change) = self.changes.front()
            && change.position <= flushed
            && bytes < chunk_bytes
        {
            bytes += change.bytes;
            count += 1;
            last.insert(change.shard, change.commit);
            self.changes.pop_front();
        }
        if count == 0 {
            return None;
        }
        self.bytes -= bytes;
        let mut payload = self.chunks.pop_front()?;
        if bytes < chunk_bytes {
            self.chunks.push_front(payload.split_off(bytes));
        }
        Some(Outgoing { payload, count, last, time_ms })
    }

    fn clear(&mut self) {
        *self = Buffer::default();
    }
}

impl<F: Disk> ChangeLogs<F> {
    /// Makes sure that a log is there, which keeps all changes of its shards behind these commits.
    pub async fn begin<D: Directory<File = F>>(
        &self,
        directory: &D,
        name: &[u8],
        bases: &[(u32, u64)],
        retention: Retention,
        now_ms: u64,
    ) -> Result<(), DiskError> {
        let _lock = self.lock().await;
        if let Some(log) = self.log(name) {
            {
                let state = &mut *log.state.borrow_mut();
                state.retention = retention;
                if bases.iter().all(|(shard, base)| state.reaches(*shard, *base)) {
                    return Ok(());
                }
                state.last = bases.iter().copied().collect();
            }
            let begun = log.renew(directory, now_ms).await;
            // What it has does not end where it is to go on.
            if let Err(error) = &begun {
                log.fail(error);
            }
            return begun;
        }
        let log = ChangeLog {
            name: name.into(),
            state: RefCell::new(LogState {
                retention,
                segments: [].into(),
                file: None,
                offset: 0,
                previous: 0,
                durable: 0,
                // Readers of a log that was here before must not take this one for it.
                next_number: (now_ms / 1000).max(1),
                written: BTreeMap::new(),
                last: bases.iter().copied().collect(),
                buffer: Buffer::default(),
                failed: false,
                removing: false,
            }),
        };
        log.renew(directory, now_ms).await?;
        self.logs.borrow_mut().insert(name.into(), Rc::new(log));
        self.due.notify();
        Ok(())
    }

    /// Removes a log, durably.
    pub async fn remove<D: Directory<File = F>>(&self, directory: &D, name: &[u8]) -> Result<(), DiskError> {
        let _lock = self.lock().await;
        let Some(log) = self.logs.borrow_mut().remove(name) else { return Ok(()) };
        log.remove_files(directory).await
    }

    /// Writes what the store's log is flushed behind: all of it, or only where much waits.
    pub async fn write<D: Directory<File = F>>(&self, directory: &D, flushed: u64, all: Extent) {
        if self.is_empty() {
            return;
        }
        let _lock = self.lock().await;
        for name in self.names() {
            let Some(log) = self.log(&name) else { continue };
            let waiting = log.state.borrow().buffer.bytes;
            let is_due = match all {
                Extent::Everything => waiting > 0,
                Extent::Much => waiting >= WRITE_BYTES,
            };
            if is_due && let Err(error) = log.write_out(directory, flushed).await {
                log.fail(&error);
            }
        }
    }

    /// Before a checkpoint lets the store's log forget what is before `flushed`: all of that is in segments, durably.
    pub async fn sync<D: Directory<File = F>>(&self, directory: &D, flushed: u64) -> Result<(), DiskError> {
        self.write(directory, flushed, Extent::Everything).await;
        if self.is_empty() {
            return Ok(());
        }
        let _lock = self.lock().await;
        for name in self.names() {
            let Some(log) = self.log(&name) else { continue };
            if let Err(error) = log.sync().await {
                log.fail(&error);
            }
            if log.state.borrow().failed {
                log.remove_files(directory).await?;
            }
        }
        Ok(())
    }

    /// Drops what is too old, and begins logs anew that could not be written.
    pub async fn tend<D: Directory<File = F>>(&self, directory: &D, now_ms: u64) {
        if self.is_empty() {
            return;
        }
        let _lock = self.lock().await;
        for name in self.names() {
            let Some(log) = self.log(&name) else { continue };
            let failed = log.state.borrow().failed;
            let tended = match failed {
                true => log.renew(directory, now_ms).await,
                false => log.expire(directory, now_ms).await,
            };
            if let Err(error) = tended {
                log.fail(&error);
            }
        }
    }

    /// Finds the logs that a directory has.
    pub async fn open<D: Directory<File = F>>(directory: &D) -> Result<ChangeLogs<F>, DiskError> {
        let mut found: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
        for name in directory.list().await? {
            if let Some((log, number)) = of_file_name(&name) {
                found.entry(log).or_default().push(number);
            }
        }
        let logs = ChangeLogs::default();
        for (name, mut numbers) in found {
            numbers.sort_unstable();
            match find(directory, &name, &numbers).await? {
                Some(log) => {
                    logs.logs.borrow_mut().insert(name.into(), Rc::new(log));
                }
                None => {
                    for number in numbers {
                        remove_if_there(directory, &file_name(&name, number)).await?;
                    }
                    directory.sync().await?;
                }
            }
        }
        Ok(logs)
    }
}

/// How much is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    Everything,
    /// Only of logs of which much waits.
    Much,
}

/// Gives a log up when its writing is broken off, since whoever waited for it is gone: what was on its way to the file is missing.
struct Unbroken<'a, F> {
    log: &'a ChangeLog<F>,
    is_done: bool,
}

impl<F> Drop for Unbroken<'_, F> {
    fn drop(&mut self) {
        if !self.is_done {
            tracing::warn!("a change log was not written to its end: what it kept is given up");
            let state = &mut *self.log.state.borrow_mut();
            state.failed = true;
            state.buffer.clear();
        }
    }
}

impl<F: Disk> ChangeLog<F> {
    fn fail(&self, error: &DiskError) {
        let state = &mut *self.state.borrow_mut();
        if !state.failed {
            tracing::error!(%error, "a change log cannot be written: what it kept is given up");
        }
        state.failed = true;
        state.buffer.clear();
    }

    /// Begins anew behind the last commits, and removes what was kept before.
    async fn renew<D: Directory<File = F>>(&self, directory: &D, now_ms: u64) -> Result<(), DiskError> {
        {
            let state = &mut *self.state.borrow_mut();
            // From here on changes are kept again, and go to the segment when it is made.
            state.buffer.clear();
            state.failed = false;
            state.written = state.last.clone();
        }
        let mut unbroken = Unbroken { log: self, is_done: false };
        let begun = match self.remove_files(directory).await {
            Ok(()) => self.begin_segment(directory, now_ms).await,
            Err(error) => Err(error),
        };
        unbroken.is_done = true;
        begun
    }

    async fn remove_files<D: Directory<File = F>>(&self, directory: &D) -> Result<(), DiskError> {
        // Who reads them meanwhile finds them cut short.
        let numbers: Vec<u64> = {
            let state = &mut *self.state.borrow_mut();
            state.file = None;
            state.removing = true;
            state.segments.iter().map(|segment| segment.head.number).collect()
        };
        if !numbers.is_empty() {
            for number in &numbers {
                remove_if_there(directory, &file_name(&self.name, *number)).await?;
            }
            directory.sync().await?;
        }
        let state = &mut *self.state.borrow_mut();
        state.segments.clear();
        state.removing = false;
        Ok(())
    }

    async fn begin_segment<D: Directory<File = F>>(
        &self,
        directory: &D,
        begun_ms: u64,
    ) -> Result<(), DiskError> {
        let head = {
            let state = self.state.borrow();
            Head { number: state.next_number, begun_ms, bases: state.bases() }
        };
        let file = directory.open(&file_name(&self.name, head.number), OpenMode::Create).await?;
        file.truncate(0).await?;
        let mut buffer = file.buffer(head.bytes());
        let sum = head.encode(buffer.as_mut());
        file.write(0, buffer).await?;
        file.sync().await?;
        directory.sync().await?;
        let state = &mut *self.state.borrow_mut();
        let bytes = u64::from(head.bytes());
        (state.offset, state.durable, state.previous) = (bytes, bytes, sum);
        state.next_number = head.number + 1;
        state.file = Some(Rc::new(file));
        state.segments.push_back(Segment { head, bytes });
        Ok(())
    }

    async fn write_out<D: Directory<File = F>>(&self, directory: &D, flushed: u64) -> Result<(), DiskError> {
        let mut unbroken = Unbroken { log: self, is_done: false };
        let written = self.write_frames(directory, flushed).await;
        unbroken.is_done = true;
        written
    }

    async fn write_frames<D: Directory<File = F>>(
        &self,
        directory: &D,
        flushed: u64,
    ) -> Result<(), DiskError> {
        loop {
            let outgoing = {
                let state = &mut *self.state.borrow_mut();
                if state.failed {
                    return Ok(());
                }
                state.buffer.take(flushed)
            };
            let Some(outgoing) = outgoing else { return Ok(()) };
            let bytes = segment::frame_bytes(outgoing.payload.len());
            let turns = {
                let state = self.state.borrow();
                let head = state.segments.back().map_or(0, |last| u64::from(last.head.bytes()));
                let is_full = state.offset + u64::from(bytes) > state.segment_bytes();
                state.file.is_none() || (is_full && state.offset > head)
            };
            if turns {
                self.sync().await?;
                self.begin_segment(directory, outgoing.time_ms).await?;
                self.shorten(directory, 0).await?;
            }
            let Some(file) = self.state.borrow().file.clone() else { return Ok(()) };
            let mut buffer = file.buffer(bytes);
            let (offset, sum) = {
                let state = self.state.borrow();
                let number = state.segments.back().map_or(0, |last| last.head.number);
                let site = Site { segment: number, offset: state.offset };
                let payload = (&*outgoing.payload, outgoing.count);
                let sum =
                    segment::encode_frame(site, state.previous, state.durable, payload, buffer.as_mut());
                (state.offset, sum)
            };
            file.write(offset, buffer).await?;
            let state = &mut *self.state.borrow_mut();
            state.offset = offset + u64::from(bytes);
            state.previous = sum;
            state.written.extend(outgoing.last);
            if let Some(last) = state.segments.back_mut() {
                last.bytes = state.offset;
            }
        }
    }

    async fn sync(&self) -> Result<(), DiskError> {
        let (file, offset, durable) = {
            let state = self.state.borrow();
            (state.file.clone(), state.offset, state.durable)
        };
        if let Some(file) = file
            && offset > durable
        {
            file.sync().await?;
            self.state.borrow_mut().durable = offset;
        }
        Ok(())
    }

    /// Removes segments that are beyond what is kept, but never the last.
    async fn shorten<D: Directory<File = F>>(&self, directory: &D, now_ms: u64) -> Result<(), DiskError> {
        loop {
            let gone = {
                let state = &mut *self.state.borrow_mut();
                let bytes: u64 = state.segments.iter().map(|segment| segment.bytes).sum();
                let Some(next) = state.segments.get(1) else { return Ok(()) };
                let is_old = next.head.begun_ms.saturating_add(state.retention.age_ms_max) < now_ms;
                if bytes <= state.retention.bytes_max && !is_old {
                    return Ok(());
                }
                state.segments.pop_front()
            };
            if let Some(segment) = gone {
                remove_if_there(directory, &file_name(&self.name, segment.head.number)).await?;
            }
        }
    }

    async fn expire<D: Directory<File = F>>(&self, directory: &D, now_ms: u64) -> Result<(), DiskError> {
        let is_aged = {
            let state = self.state.borrow();
            let part = state.retention.age_ms_max / AGE_PART;
            state.segments.back().is_some_and(|last| {
                last.bytes > u64::from(last.head.bytes()) && last.head.begun_ms.saturating_add(part) < now_ms
            })
        };
        if is_aged {
            self.sync().await?;
            self.begin_segment(directory, now_ms).await?;
        }
        self.shorten(directory, now_ms).await
    }
}

async fn remove_if_there<D: Directory>(directory: &D, name: &str) -> Result<(), DiskError> {
    match directory.remove(name).await {
        Ok(()) | Err(DiskError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The log that these segments make; `None` when what is there cannot be one. What is left of others is removed.
async fn find<D: Directory>(
    directory: &D,
    name: &[u8],
    numbers: &[u64],
) -> Result<Option<ChangeLog<D::File>>, DiskError> {
    let mut segments: Vec<(Segment, D::File, u64)> = Vec::new();
    for number in numbers.iter().rev() {
        let file = directory.open(&file_name(name, *number), OpenMode::Existing).await?;
        let follows = segments.last().is_none_or(|(next, ..)| next.head.number == number + 1);
        match read_head(&file, *number).await? {
            Some((head, sum)) if follows => {
                let bytes = file.length().await?;
                segments.push((Segment { head, bytes }, file, sum));
            }
            // A crash came while it was begun, and so it has no changes; or while older ones were being removed.
            found => {
                if found.is_none() && segments.is_empty() && has_frames(&file, *number).await? {
                    return Ok(None);
                }
                drop(file);
                directory.remove(&file_name(name, *number)).await?;
            }
        }
    }
    segments.reverse();
    let Some((newest, file, sum)) = segments.pop() else { return Ok(None) };
    let (number, head_bytes) = (newest.head.number, u64::from(newest.head.bytes()));
    let mut written: BTreeMap<u32, u64> = newest.head.bases.iter().copied().collect();
    let Some(end) = find_end(&file, number, head_bytes, sum, &mut written).await? else {
        tracing::error!("a change log is damaged: what it kept is given up");
        return Ok(None);
    };
    let mut segments: std::collections::VecDeque<Segment> =
        segments.into_iter().map(|(segment, ..)| segment).collect();
    segments.push_back(Segment { head: newest.head, bytes: end.offset });
    // What a killed process wrote may not be durable yet.
    file.sync().await?;
    let state = LogState {
        retention: Retention { bytes_max: u64::MAX, age_ms_max: u64::MAX },
        segments,
        file: Some(Rc::new(file)),
        offset: end.offset,
        previous: end.sum,
        durable: end.offset,
        next_number: number + 1,
        last: written.clone(),
        written,
        buffer: Buffer::default(),
        failed: false,
        removing: false,
    };
    Ok(Some(ChangeLog { name: name.into(), state: RefCell::new(state) }))
}

async fn read_head<F: Disk>(file: &F, number: u64) -> Result<Option<(Head, u64)>, DiskError> {
    let first = file.read(0, BLOCK_BYTES).await?;
    let Some(bytes) = Head::bytes_of(&first) else { return Ok(None) };
    if u64::from(bytes) > file.length().await? {
        return Ok(None);
    }
    let whole = file.read(0, bytes).await?;
    Ok(Head::decode(&whole, number))
}

struct End {
    offset: u64,
    sum: u64,
}

/// Where the frames of a segment end; `None` when that is not where they were written to.
async fn find_end<F: Disk>(
    file: &F,
    number: u64,
    offset: u64,
    sum: u64,
    last: &mut BTreeMap<u32, u64>,
) -> Result<Option<End>, DiskError> {
    let bytes = file.length().await?;
    let (mut end, mut at, mut is_over) = (End { offset, sum }, offset, false);
    while at < bytes {
        let Some(frame) = read_frame(file, number, at, bytes).await? else {
            (is_over, at) = (true, at + u64::from(BLOCK_BYTES));
            continue;
        };
        let site = Site { segment: number, offset: at };
        let found = segment::decode_frame(&frame, site).expect("it was whole when it was read");
        if is_over || found.previous != end.sum {
            if found.durable > end.offset {
                return Ok(None);
            }
            (is_over, at) = (true, at + u64::from(BLOCK_BYTES));
            continue;
        }
        for change in segment::changes(found.payload) {
            last.insert(change.shard, change.commit);
        }
        at += u64::from(segment::frame_bytes(found.payload.len()));
        end = End { offset: at, sum: found.sum };
    }
    Ok(Some(end))
}

/// Whether there is any whole frame in a segment.
async fn has_frames<F: Disk>(file: &F, number: u64) -> Result<bool, DiskError> {
    let bytes = file.length().await?;
    for at in (0..bytes).step_by(BLOCK_BYTES as usize) {
        if read_frame(file, number, at, bytes).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The bytes of the whole frame at `offset`, if there is one.
pub(super) async fn read_frame<F: Disk>(
    file: &F,
    segment: u64,
    offset: u64,
    end: u64,
) -> Result<Option<Vec<u8>>, DiskError> {
    let first = file.read(offset, BLOCK_BYTES).await?;
    let Some(payload) = segment::payload_bytes(&first) else { return Ok(None) };
    let bytes = segment::frame_bytes(payload);
    if offset + u64::from(bytes) > end {
        return Ok(None);
    }
    let whole = file.read(offset, bytes).await?;
    let site = Site { segment, offset };
    Ok(segment::decode_frame(&whole, site).is_some().then(|| whole.to_vec()))
}
