//! Reading a change log behind a position of each shard.
//!
//! Always: what is read is in the segments, so it is durable, and in the order of each shard's commits. Segments may be dropped while
//! somebody reads: that is told, never skipped.

use std::rc::Rc;

use super::segment::{self, Site, file_name};
use super::writer::read_frame;
use super::{ChangeLog, ChangeLogError, ChangeLogs, LogPlace, LogRun, Position};
use crate::disk::{Directory, Disk, DiskError, OpenMode};
use crate::engine::StorageError;

impl<F: Disk> ChangeLogs<F> {
    /// Where reading behind these positions begins.
    pub async fn place<D: Directory<File = F>>(
        &self,
        directory: &D,
        name: &[u8],
        after: &[Position],
    ) -> Result<LogPlace, ChangeLogError> {
        let log = self.log(name).ok_or(ChangeLogError::Off)?;
        log.check_whole()?;
        for position in after {
            log.check(directory, position).await?;
        }
        let state = log.state.borrow();
        let reaches = |segment: &&super::Segment| {
            after.iter().all(|at| segment.head.base(at.shard).is_some_and(|base| base <= at.commit))
        };
        let too_old = || ChangeLogError::TooOld { since_ms: state.since_ms() };
        let segment = state.segments.iter().rev().find(reaches).ok_or_else(too_old)?;
        Ok(LogPlace { segment: segment.head.number, offset: u64::from(segment.head.bytes()) })
    }

    /// The next run from a place on: about `bytes_max` of those behind the positions. Give the same positions each time.
    pub async fn read<D: Directory<File = F>>(
        &self,
        directory: &D,
        name: &[u8],
        after: &[Position],
        place: LogPlace,
        bytes_max: usize,
    ) -> Result<LogRun, ChangeLogError> {
        let log = self.log(name).ok_or(ChangeLogError::Off)?;
        log.check_whole()?;
        let mut run = LogRun { changes: Vec::new(), next: place, more: true };
        let mut bytes = 0;
        while bytes < bytes_max {
            let Some(frame) = log.frame(directory, &mut run.next).await? else {
                run.more = false;
                break;
            };
            bytes += frame.len();
            let site = Site { segment: run.next.segment, offset: run.next.offset };
            let found = segment::decode_frame(&frame, site).expect("it was whole when it was read");
            let is_wanted = |change: &segment::Borrowed<'_>| {
                after.iter().any(|at| at.shard == change.shard && change.commit > at.commit)
            };
            let wanted = segment::changes(found.payload).filter(is_wanted);
            run.changes.extend(wanted.map(|change| change.to_change()));
            run.next.offset += u64::from(segment::frame_bytes(found.payload.len()));
        }
        Ok(run)
    }
}

impl<F: Disk> ChangeLog<F> {
    /// A log that was given up lacks its last changes.
    fn check_whole(&self) -> Result<(), ChangeLogError> {
        match self.state.borrow().failed {
            true => Err(ChangeLogError::TooOld { since_ms: 0 }),
            false => Ok(()),
        }
    }

    /// The frame at a place, which is moved on to the next segment at the end of one; `None` at the end of the log.
    async fn frame<D: Directory<File = F>>(
        &self,
        directory: &D,
        place: &mut LogPlace,
    ) -> Result<Option<Vec<u8>>, ChangeLogError> {
        loop {
            let (end, is_last) = {
                let state = self.state.borrow();
                let too_old = || ChangeLogError::TooOld { since_ms: state.since_ms() };
                let first = state.segments.front().ok_or_else(too_old)?;
                let index = place.segment.checked_sub(first.head.number).ok_or_else(too_old)? as usize;
                let segment = state.segments.get(index).ok_or_else(too_old)?;
                (segment.bytes, index + 1 == state.segments.len())
            };
            if place.offset >= end {
                if is_last {
                    return Ok(None);
                }
                let state = self.state.borrow();
                let next = place.segment + 1;
                let head = state.segments.iter().find(|segment| segment.head.number == next);
                let offset = head.map_or(0, |segment| u64::from(segment.head.bytes()));
                *place = LogPlace { segment: next, offset };
                continue;
            }
            let name = file_name(&self.name, place.segment);
            let file = match self.file_of(directory, place.segment).await {
                Ok(file) => file,
                // It was dropped since the look at the list.
                Err(DiskError::NotFound { .. }) => {
                    return Err(ChangeLogError::TooOld { since_ms: self.state.borrow().since_ms() });
                }
                Err(error) => return Err(StorageError::from(error).into()),
            };
            let frame = read_frame(&*file, place.segment, place.offset, end).await;
            let frame = frame.map_err(StorageError::from)?;
            return match frame {
                Some(frame) => Ok(Some(frame)),
                // What is removed is cut short under those who have it open.
                None if !self.state.borrow().has(place.segment) => {
                    Err(ChangeLogError::TooOld { since_ms: self.state.borrow().since_ms() })
                }
                None => {
                    let what = "a frame of changes is broken".to_owned();
                    Err(StorageError::Corrupt { file: name, offset: place.offset, what }.into())
                }
            };
        }
    }

    async fn file_of<D: Directory<File = F>>(&self, directory: &D, number: u64) -> Result<Rc<F>, DiskError> {
        {
            let state = self.state.borrow();
            if let (Some(file), Some(last)) = (&state.file, state.segments.back())
                && last.head.number == number
            {
                return Ok(file.clone());
            }
        }
        Ok(Rc::new(directory.open(&file_name(&self.name, number), OpenMode::Existing).await?))
    }

    /// Whether all changes behind a position are there, and the one that it names.
    async fn check<D: Directory<File = F>>(
        &self,
        directory: &D,
        at: &Position,
    ) -> Result<(), ChangeLogError> {
        let (mut place, base) = {
            let state = self.state.borrow();
            let since_ms = state.since_ms();
            let first = state.segments.front().ok_or(ChangeLogError::TooOld { since_ms })?;
            let oldest = first.head.base(at.shard).ok_or(ChangeLogError::Unknown { shard: at.shard })?;
            if at.commit < oldest {
                return Err(ChangeLogError::TooOld { since_ms });
            }
            let last = state.last.get(&at.shard).copied().unwrap_or(oldest);
            if !at.is_change || at.commit == last {
                return Ok(());
            }
            if at.commit > last {
                return Err(ChangeLogError::Lost { since_ms });
            }
            let reaches = |base: u64| base <= at.commit;
            let found = state.segments.iter().rev().find_map(|segment| {
                let base = segment.head.base(at.shard).filter(|base| reaches(*base))?;
                let offset = u64::from(segment.head.bytes());
                Some((LogPlace { segment: segment.head.number, offset }, base))
            });
            found.ok_or(ChangeLogError::TooOld { since_ms })?
        };
        if base == at.commit {
            return Ok(());
        }
        let segment = place.segment;
        while let Some(frame) = self.frame(directory, &mut place).await? {
            let site = Site { segment: place.segment, offset: place.offset };
            let found = segment::decode_frame(&frame, site).expect("it was whole when it was read");
            let mut of_shard = segment::changes(found.payload).filter(|change| change.shard == at.shard);
            if let Some(change) = of_shard.find(|change| change.commit >= at.commit) {
                return match change.commit == at.commit {
                    true => Ok(()),
                    false => Err(ChangeLogError::Lost { since_ms: self.state.borrow().since_ms() }),
                };
            }
            place.offset += u64::from(segment::frame_bytes(found.payload.len()));
            if place.segment != segment {
                break;
            }
        }
        Err(ChangeLogError::Lost { since_ms: self.state.borrow().since_ms() })
    }
}
