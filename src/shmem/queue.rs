//! The upload queue between the archiver, which must be told about one file after the other, and the uploader, which uploads
//! many at once. Plain data and plain functions: who calls them holds the lock, and nobody waits in here.

use super::failure::Failure;
use super::text::Text;

/// Files that are known at a time: uploading, or uploaded and not yet asked for.
pub const SLOTS: usize = 192;

/// The most that `walarchive.upload_concurrency` can be.
pub const MAX_CONCURRENCY: usize = 64;

/// Slots that looking ahead leaves free, so that what the archiver asks for always finds one.
const RESERVED: usize = 4;

/// The name of a WAL file; the longest has 40 bytes.
pub type FileName = Text<40>;

/// The facts that tell one file from another of the same name; see `walarchive_core::archive::Fingerprint`.
pub type FileNumbers = [u64; 3];

/// The state of a file on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The slot is free.
    Empty,
    /// The archiver wants it, and the uploader has not taken it up.
    Requested,
    /// The uploader is at it.
    Uploading,
    /// The store has acknowledged it.
    Done,
    /// It failed, and the archiver has not been told.
    Failed,
}

/// One file.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    state: State,
    name: FileName,
    /// The archiver waits for it.
    wanted: bool,
    /// The settings of its upload.
    generation: u64,
    numbers: FileNumbers,
    /// Bytes that were sent of it, repetitions included.
    sent: u64,
}

impl Slot {
    const EMPTY: Slot = Slot {
        state: State::Empty,
        name: Text::EMPTY,
        wanted: false,
        generation: 0,
        numbers: [0; 3],
        sent: 0,
    };
}

/// The answer to the archiver about a file.
#[derive(Debug, Clone, Copy)]
#[allow(
    clippy::large_enum_variant,
    reason = "shared memory has no heap, and this lives for a moment"
)]
pub enum Answer {
    /// It is in the store.
    Done,
    /// It could not be archived.
    Failed(Failure),
    /// It has been given to the uploader; wait for the latch and ask again.
    Wait,
}

/// The queue.
#[derive(Debug, Clone, Copy)]
pub struct Queue {
    slots: [Slot; SLOTS],
    /// The last file that the archiver was told to be done: it may not have renamed its `.ready` file yet.
    acknowledged: FileName,
    /// Why the slot that failed did. The archiver waits for one file at a time, so there is at most one such slot, and
    /// one place is enough: a failure is many times as large as a slot.
    failure: Failure,
}

impl Queue {
    /// With no file in it.
    pub const EMPTY: Queue = Queue {
        slots: [Slot::EMPTY; SLOTS],
        acknowledged: Text::EMPTY,
        failure: Failure::NONE,
    };

    /// The archiver asks for a file, with its facts. A file that was uploaded with other settings, or that has changed since,
    /// is uploaded again.
    pub fn ask(&mut self, name: &FileName, generation: u64, numbers: FileNumbers) -> Answer {
        let known = self
            .slots
            .iter_mut()
            .find(|slot| slot.state != State::Empty && slot.name == *name);
        if let Some(slot) = known {
            match slot.state {
                State::Done if slot.generation == generation && slot.numbers == numbers => {
                    slot.state = State::Empty;
                    self.acknowledged = *name;
                    return Answer::Done;
                }
                State::Failed => {
                    slot.state = State::Empty;
                    return Answer::Failed(self.failure);
                }
                State::Done => slot.state = State::Requested,
                State::Empty | State::Requested | State::Uploading => {}
            }
            slot.wanted = true;
            return Answer::Wait;
        }
        // Without a free one, something that was uploaded ahead is forgotten: it will be found in the store.
        let free = self
            .position(|slot| slot.state == State::Empty)
            .or_else(|| self.position(|slot| slot.state == State::Done || slot.state == State::Failed));
        if let Some(index) = free {
            self.slots[index] = Slot {
                state: State::Requested,
                name: *name,
                wanted: true,
                ..Slot::EMPTY
            };
        }
        Answer::Wait
    }

    /// The archiver does not wait any more.
    pub fn withdraw(&mut self, name: &FileName) {
        for slot in self.slots.iter_mut().filter(|slot| slot.name == *name) {
            slot.wanted = false;
            if matches!(slot.state, State::Requested | State::Failed) {
                slot.state = State::Empty;
            }
        }
    }

    /// The uploader takes up what the archiver waits for, one file a call.
    pub fn take_request(&mut self) -> Option<FileName> {
        let slot = self.slots.iter_mut().find(|slot| slot.state == State::Requested)?;
        slot.state = State::Uploading;
        Some(slot.name)
    }

    /// The uploader takes up a file ahead of the archiver.
    pub fn look_ahead(&mut self, name: &FileName) -> Ahead {
        if self.acknowledged == *name
            || self
                .slots
                .iter()
                .any(|slot| slot.state != State::Empty && slot.name == *name)
        {
            return Ahead::Known;
        }
        if self.slots.iter().filter(|slot| slot.state == State::Empty).count() <= RESERVED {
            return Ahead::Full;
        }
        let Some(index) = self.position(|slot| slot.state == State::Empty) else {
            return Ahead::Full;
        };
        self.slots[index] = Slot {
            state: State::Uploading,
            name: *name,
            ..Slot::EMPTY
        };
        Ahead::Taken
    }

    /// The archiver was told that this file is done, by itself.
    pub fn acknowledge(&mut self, name: &FileName) {
        self.acknowledged = *name;
    }

    /// The uploader does not want a file that it took up ahead of the archiver.
    pub fn give_back(&mut self, name: &FileName) {
        if let Some(slot) = self.uploading(name) {
            slot.state = match slot.wanted {
                true => State::Requested,
                false => State::Empty,
            };
        }
    }

    /// The store has acknowledged a file.
    pub fn finish(&mut self, name: &FileName, generation: u64, numbers: FileNumbers) {
        if let Some(slot) = self.uploading(name) {
            slot.state = State::Done;
            slot.generation = generation;
            slot.numbers = numbers;
        }
    }

    /// So many bytes of a file were sent by now.
    pub fn note_sent(&mut self, name: &FileName, bytes: u64) {
        if let Some(slot) = self.uploading(name) {
            slot.sent = bytes;
        }
    }

    /// How many bytes of a file were sent, if the uploader is at it.
    pub fn sent(&self, name: &FileName) -> Option<u64> {
        let slot = self
            .slots
            .iter()
            .find(|slot| slot.state == State::Uploading && slot.name == *name)?;
        Some(slot.sent)
    }

    /// A file could not be uploaded. Only an archiver that waits is told; else it will be tried when it asks. True if it
    /// waits.
    pub fn fail(&mut self, name: &FileName, failure: Failure) -> bool {
        let Some(slot) = self.uploading(name) else { return false };
        slot.sent = 0;
        if !slot.wanted {
            slot.state = State::Empty;
            return false;
        }
        slot.state = State::Failed;
        self.failure = failure;
        // An archiver that died has not fetched the failure of the file that it waited for. That file is asked for anew.
        for slot in self.slots.iter_mut().filter(|slot| slot.name != *name) {
            if slot.state == State::Failed {
                slot.state = State::Empty;
            }
        }
        true
    }

    /// The uploader is gone, or has just come: nothing is being uploaded.
    pub fn abandon_uploads(&mut self) {
        for slot in self.slots.iter_mut().filter(|slot| slot.state == State::Uploading) {
            slot.state = if slot.wanted { State::Requested } else { State::Empty };
        }
    }

    /// Forget what was uploaded ahead and is not waiting in `archive_status` any more: the archiver will never ask for it.
    pub fn uploaded(&self) -> impl Iterator<Item = FileName> {
        self.slots
            .iter()
            .filter(|slot| slot.state == State::Done && !slot.wanted)
            .map(|slot| slot.name)
    }

    /// The files that the uploader is at.
    pub fn in_upload(&self) -> impl Iterator<Item = FileName> {
        let uploading = self.slots.iter().filter(|slot| slot.state == State::Uploading);
        uploading.map(|slot| slot.name)
    }

    /// See [`Queue::uploaded`].
    pub fn forget(&mut self, name: &FileName) {
        for slot in self
            .slots
            .iter_mut()
            .filter(|slot| slot.state == State::Done && slot.name == *name)
        {
            slot.state = State::Empty;
        }
    }

    /// How many files are being uploaded, and how many are uploaded and not yet asked for.
    pub fn counts(&self) -> (usize, usize) {
        let count = |state| self.slots.iter().filter(|slot| slot.state == state).count();
        (count(State::Uploading), count(State::Done))
    }

    fn uploading(&mut self, name: &FileName) -> Option<&mut Slot> {
        self.slots
            .iter_mut()
            .find(|slot| slot.state == State::Uploading && slot.name == *name)
    }

    fn position(&self, wanted: impl Fn(&Slot) -> bool) -> Option<usize> {
        self.slots.iter().position(wanted)
    }
}

/// The outcome of an attempt to look ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// It is the uploader's now.
    Taken,
    /// It is in the queue already.
    Known,
    /// There is no room; wait until the archiver has asked for some.
    Full,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> FileName {
        Text::new(&format!("{number:024X}"))
    }

    const NUMBERS: FileNumbers = [1, 2, 3];

    #[test]
    fn a_file_is_done_once_the_store_has_it_and_is_told_once() {
        let mut queue = Queue::EMPTY;
        assert!(matches!(queue.ask(&name(1), 7, NUMBERS), Answer::Wait));
        assert_eq!(queue.take_request(), Some(name(1)));
        assert_eq!(queue.take_request(), None);
        assert!(matches!(queue.ask(&name(1), 7, NUMBERS), Answer::Wait));
        queue.finish(&name(1), 7, NUMBERS);
        assert!(matches!(queue.ask(&name(1), 7, NUMBERS), Answer::Done));
        assert_eq!(
            queue.look_ahead(&name(1)),
            Ahead::Known,
            "its .ready file may still be there"
        );
        assert!(
            matches!(queue.ask(&name(1), 7, NUMBERS), Answer::Wait),
            "asked again, it is uploaded again"
        );
    }

    #[test]
    fn what_was_given_back_is_for_whoever_wants_it() {
        let mut queue = Queue::EMPTY;
        queue.look_ahead(&name(1));
        queue.give_back(&name(1));
        assert_eq!(queue.look_ahead(&name(1)), Ahead::Taken);
        queue.ask(&name(1), 7, NUMBERS);
        queue.give_back(&name(1));
        assert_eq!(queue.take_request(), Some(name(1)));
        queue.acknowledge(&name(2));
        assert_eq!(queue.look_ahead(&name(2)), Ahead::Known);
    }

    #[test]
    fn done_counts_only_for_the_same_file_and_the_same_settings() {
        for (generation, numbers) in [(8, NUMBERS), (7, [1, 2, 4])] {
            let mut queue = Queue::EMPTY;
            assert_eq!(queue.look_ahead(&name(1)), Ahead::Taken);
            queue.finish(&name(1), 7, NUMBERS);
            assert!(matches!(queue.ask(&name(1), generation, numbers), Answer::Wait));
            assert_eq!(queue.take_request(), Some(name(1)));
        }
    }

    #[test]
    fn only_an_archiver_that_waits_is_told_of_a_failure() {
        let mut queue = Queue::EMPTY;
        queue.look_ahead(&name(1));
        assert!(!queue.fail(&name(1), Failure::NONE));
        assert_eq!(queue.look_ahead(&name(1)), Ahead::Taken);
        queue.ask(&name(1), 7, NUMBERS);
        assert!(queue.fail(&name(1), Failure::NONE));
        assert!(matches!(queue.ask(&name(1), 7, NUMBERS), Answer::Failed(_)));
        assert!(matches!(queue.ask(&name(1), 7, NUMBERS), Answer::Wait));
    }

    fn failure(message: &str) -> Failure {
        Failure {
            message: Text::new(message),
            ..Failure::NONE
        }
    }

    #[test]
    fn the_archiver_gets_the_failure_of_its_own_file() {
        let mut queue = Queue::EMPTY;
        for number in [1, 2] {
            queue.ask(&name(number), 7, NUMBERS);
            queue.take_request();
        }
        queue.look_ahead(&name(3));
        assert!(queue.fail(&name(2), failure("of 2")));
        // One that nobody waits for leaves no trace.
        assert!(!queue.fail(&name(3), failure("of 3")));
        assert!(matches!(queue.ask(&name(3), 7, NUMBERS), Answer::Wait));
        match queue.ask(&name(2), 7, NUMBERS) {
            Answer::Failed(failure) => assert_eq!(failure.message.as_str(), "of 2"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_failure_that_was_never_fetched_is_not_told_of_another_file() {
        let mut queue = Queue::EMPTY;
        for number in [1, 2] {
            queue.ask(&name(number), 7, NUMBERS);
            queue.take_request();
        }
        assert!(queue.fail(&name(1), failure("of 1")));
        assert!(queue.fail(&name(2), failure("of 2")));
        assert!(matches!(queue.ask(&name(1), 7, NUMBERS), Answer::Wait));
        assert_eq!(queue.take_request(), Some(name(1)), "it is tried again");
        match queue.ask(&name(2), 7, NUMBERS) {
            Answer::Failed(failure) => assert_eq!(failure.message.as_str(), "of 2"),
            other => panic!("{other:?}"),
        }
        assert!(queue.fail(&name(1), failure("of 1 again")));
        match queue.ask(&name(1), 7, NUMBERS) {
            Answer::Failed(failure) => assert_eq!(failure.message.as_str(), "of 1 again"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn slots_are_small() {
        assert!(size_of::<Slot>() <= 128, "{}", size_of::<Slot>());
        let slots = SLOTS * size_of::<Slot>();
        assert!(size_of::<Queue>() <= slots + size_of::<Failure>() + 64);
    }

    #[test]
    fn a_request_finds_room_when_looking_ahead_has_taken_all_of_it() {
        let mut queue = Queue::EMPTY;
        let taken = (1..)
            .take_while(|number| queue.look_ahead(&name(*number)) == Ahead::Taken)
            .count();
        assert_eq!(taken, SLOTS - RESERVED);
        for number in 1..=taken {
            queue.finish(&name(number), 7, NUMBERS);
        }
        for number in 1000..1000 + 2 * SLOTS {
            queue.ask(&name(number), 7, NUMBERS);
            assert_eq!(queue.take_request(), Some(name(number)));
            queue.finish(&name(number), 7, NUMBERS);
            assert!(matches!(queue.ask(&name(number), 7, NUMBERS), Answer::Done));
        }
    }

    #[test]
    fn a_dead_workers_uploads_are_asked_for_again() {
        let mut queue = Queue::EMPTY;
        queue.ask(&name(1), 7, NUMBERS);
        queue.take_request();
        queue.look_ahead(&name(2));
        assert_eq!(queue.in_upload().collect::<Vec<_>>(), [name(1), name(2)]);
        queue.abandon_uploads();
        assert_eq!(queue.in_upload().count(), 0);
        assert_eq!(queue.take_request(), Some(name(1)));
        assert_eq!(queue.counts(), (1, 0));
        queue.finish(&name(2), 7, NUMBERS);
        assert_eq!(
            queue.counts(),
            (1, 0),
            "what comes late from a worker that is gone does not count"
        );
    }

    #[test]
    fn an_upload_outlives_the_archivers_call() {
        let mut queue = Queue::EMPTY;
        queue.ask(&name(1), 7, NUMBERS);
        queue.take_request();
        queue.note_sent(&name(1), 4711);
        queue.withdraw(&name(1));
        assert_eq!(queue.sent(&name(1)), Some(4711));
        assert_eq!(queue.counts(), (1, 0));
        assert!(matches!(queue.ask(&name(1), 7, NUMBERS), Answer::Wait));
        assert_eq!(queue.take_request(), None, "it is not begun again");
        queue.withdraw(&name(1));
        queue.finish(&name(1), 7, NUMBERS);
        assert_eq!(queue.sent(&name(1)), None);
        assert!(matches!(queue.ask(&name(1), 7, NUMBERS), Answer::Done));
    }

    #[test]
    fn what_is_withdrawn_is_not_uploaded_on_request() {
        let mut queue = Queue::EMPTY;
        queue.ask(&name(1), 7, NUMBERS);
        queue.withdraw(&name(1));
        assert_eq!(queue.take_request(), None);
    }
}
