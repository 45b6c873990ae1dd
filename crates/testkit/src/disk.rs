//! A disk that remembers every write and every flush, so that the power can be cut at any of them.
//!
//! A loop device stands on a file that this process serves ([`super::fuse`]). What a power cut may
//! leave of such a disk is what the filesystem was told, and no more: all that was written before
//! the last flush that began, and of what was written since any part, in no order, each sector
//! of 4 KiB as it was or as it was to be. (A disk with smaller sectors is not tried; ext4's
//! superblock would not survive one.)
//!
//! ```text
//! write write FLUSH write write FLUSH write write write  ↯ cut
//! └────────────── there ────────────┘ └── some of it ──┘
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::fs::SeekFrom;

use super::filesystem::{Kind, Place};
use super::fuse;

const SECTOR: usize = 4096;
const SIZE: u64 = 512 << 20;

/// What is on a disk: the sectors that are not all zero.
#[derive(Debug, Clone, Default)]
pub struct Image(HashMap<u64, Arc<[u8; SECTOR]>>);

/// One thing that a disk was told.
#[derive(Debug)]
enum Event {
    Write { offset: u64, bytes: Vec<u8> },
    Flush,
}

/// All that a disk was told since it had power.
#[derive(Debug)]
pub struct Recording {
    begin: Image,
    events: Vec<Event>,
}

/// A mounted filesystem on such a disk; dropping it unmounts it and forgets the disk.
#[derive(Debug)]
pub struct Disk {
    /// The kind of the filesystem.
    pub kind: Kind,
    place: Place,
    power: Option<Power>,
}

#[derive(Debug)]
struct Power {
    begin: Image,
    events: Arc<Mutex<Vec<Event>>>,
    server: JoinHandle<()>,
}

impl Image {
    /// A new filesystem.
    pub fn of_new(kind: Kind) -> Self {
        let place = Place::new();
        let file = kind.make(place.image(), SIZE);
        let mut image = Self::default();
        let mut at = 0;
        while let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
            let end = rustix::fs::seek(&file, SeekFrom::Hole(start)).unwrap();
            let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
            file.read_exact_at(&mut bytes, start).unwrap();
            image.write(start, &bytes);
            at = end;
        }
        image
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) {
        for (number, within, part) in parts(offset, bytes.len()) {
            let length = part.len();
            match self.0.get(&number) {
                Some(sector) => bytes[part].copy_from_slice(&sector[within..within + length]),
                None => bytes[part].fill(0),
            }
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (number, within, part) in parts(offset, bytes.len()) {
            self.write_sector(number, within, &bytes[part]);
        }
    }

    fn write_sector(&mut self, number: u64, within: usize, bytes: &[u8]) {
        let mut sector = self.0.get(&number).map_or([0; SECTOR], |sector| **sector);
        sector[within..within + bytes.len()].copy_from_slice(bytes);
        if sector == [0; SECTOR] {
            self.0.remove(&number);
        } else {
            self.0.insert(number, Arc::new(sector));
        }
    }
}

/// The sectors that a range touches: number, offset in it, part of the range.
fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == length {
            return None;
        }
        let position = offset + at as u64;
        let within = usize::try_from(position % SECTOR as u64).unwrap();
        let end = length.min(at + SECTOR - within);
        let part = (position / SECTOR as u64, within, at..end);
        at = end;
        Some(part)
    })
}

impl Recording {
    /// How many things the disk was told.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// What a power cut after the first `at` of them leaves, if `is_kept` says for each sector that
    /// was written since the last flush whether it reached the disk.
    pub fn cut(&self, at: usize, mut is_kept: impl FnMut() -> bool) -> Image {
        let events = &self.events[..at];
        let is_flush = |event: &Event| matches!(event, Event::Flush);
        let certain = events.iter().rposition(is_flush).unwrap_or(0);
        let mut image = self.begin.clone();
        for (number, event) in events.iter().enumerate() {
            let Event::Write { offset, bytes } = event else {
                continue;
            };
            for (sector, within, part) in parts(*offset, bytes.len()) {
                if number < certain || is_kept() {
                    image.write_sector(sector, within, &bytes[part]);
                }
            }
        }
        image
    }
}

impl Disk {
    /// One with a new filesystem.
    pub fn new(kind: Kind) -> Self {
        let mut this = Self {
            kind,
            place: Place::new(),
            power: None,
        };
        this.power_on(Image::of_new(kind));
        this
    }

    /// Begins with `image`, and mounts it where it was before. What is written is recorded.
    pub fn power_on(&mut self, image: Image) {
        assert!(self.power.is_none(), "it has power");
        File::create(self.place.image()).unwrap();
        let events = Arc::<Mutex<Vec<Event>>>::default();
        let served = Served {
            now: image.clone(),
            events: Arc::clone(&events),
        };
        self.power = Some(Power {
            begin: image,
            events,
            server: fuse::mount(self.place.image(), served),
        });
        self.place.mount("");
    }

    /// How many things the disk was told so far.
    pub fn position(&self) -> usize {
        self.power.as_ref().unwrap().events.lock().unwrap().len()
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// Takes the power away, and says what the disk was told until then.
    pub fn power_off(&mut self) -> Recording {
        let position = self.position();
        let power = self.power.take().unwrap();
        self.place.unmount();
        power.server.join().unwrap();
        let mut events = std::mem::take(&mut *power.events.lock().unwrap());
        events.truncate(position);
        Recording {
            begin: power.begin,
            events,
        }
    }
}

struct Served {
    now: Image,
    events: Arc<Mutex<Vec<Event>>>,
}

impl fuse::Content for Served {
    fn size(&self) -> u64 {
        SIZE
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) {
        self.now.read(offset, bytes);
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.now.write(offset, bytes);
        self.events.lock().unwrap().push(Event::Write {
            offset,
            bytes: bytes.to_vec(),
        });
    }

    fn flush(&mut self) {
        self.events.lock().unwrap().push(Event::Flush);
    }
}
