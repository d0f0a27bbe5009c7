//! A simulated cluster, and the book of what happened in it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tessera_rpc::Tasks;
use tokio::time::Instant;

use super::dice::Dice;
use super::machine::{Machine, Role};
use super::network::Network;

/// A worker that is not listed any more may be given work for so long: a look at the list, and one that settles.
const UNLISTED: Duration = Duration::from_secs(2);

/// What happened to a request, or to an image, that may explain an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Blow {
    /// A stream broke that was to bring events.
    Broken,
    /// A model failed.
    Failed,
    /// A worker was full.
    Refused,
}

/// Everything that a schedule is about.
pub(crate) struct World {
    pub(crate) network: Network,
    pub(crate) machines: Vec<Arc<Machine>>,
    pub(crate) began: Instant,
    /// Breaks of one request at most.
    pub(crate) most_breaks: usize,
    /// Failures of a model of one request at most.
    pub(crate) most_failures: usize,
    /// What stands at the places of an image.
    pub(crate) image_token_id: u32,
    /// The files that list the two pools, where files do.
    pub(crate) lists: Option<[PathBuf; 2]>,
    pub(crate) tasks: Tasks,
    book: Mutex<Book>,
}

struct Book {
    dice: Dice,
    trace: Vec<String>,
    violations: Vec<String>,
    blows: BTreeMap<(String, Blow), usize>,
    /// Calls that machines have, and of what.
    open: BTreeMap<(String, String), usize>,
    calls: usize,
}

/// A call that a machine has until this is dropped.
pub(crate) struct Open {
    world: Arc<World>,
    place: (String, String),
}

impl World {
    pub(crate) fn new(network: Network, machines: Vec<Arc<Machine>>, dice: Dice) -> Self {
        let book = Book {
            dice,
            trace: Vec::new(),
            violations: Vec::new(),
            blows: BTreeMap::new(),
            open: BTreeMap::new(),
            calls: 0,
        };
        Self {
            network,
            machines,
            began: Instant::now(),
            most_breaks: usize::MAX,
            most_failures: usize::MAX,
            image_token_id: 0,
            lists: None,
            tasks: Tasks::default(),
            book: Mutex::new(book),
        }
    }

    /// Notes what happens.
    pub(crate) fn note(&self, what: impl Display) {
        let line = format!("{:>10.3} s  {what}", self.began.elapsed().as_secs_f64());
        self.book().trace.push(line);
    }

    /// Notes what must not happen.
    pub(crate) fn wrong(&self, what: impl Display) {
        self.note(format!("WRONG: {what}"));
        self.book().violations.push(what.to_string());
    }

    /// Everything that was noted, and what of it must not have happened.
    pub(crate) fn notes(&self) -> (Vec<String>, Vec<String>) {
        let book = self.book();
        (book.trace.clone(), book.violations.clone())
    }

    pub(crate) fn draw<T>(&self, draw: impl FnOnce(&mut Dice) -> T) -> T {
        draw(&mut self.book().dice)
    }

    pub(crate) fn machine(&self, url: &str) -> Option<&Arc<Machine>> {
        self.machines.iter().find(|machine| machine.url() == url)
    }

    /// How long a step of a machine takes now.
    pub(crate) fn step(&self, machine: &Machine) -> Duration {
        self.draw(|dice| dice.time(&machine.step)) * machine.mood().slow
    }

    /// Counts a call to a machine, which must be one that may get it.
    pub(crate) fn open(self: &Arc<Self>, machine: &Machine, of: &str) -> Open {
        let (place, unlisted) = ((machine.authority.clone(), of.to_owned()), machine.mood().unlisted);
        if machine.role == Role::Stranger {
            self.wrong(format!("{of} came to {}, which runs another model", machine.authority));
        }
        if unlisted.is_some_and(|since| since.elapsed() > UNLISTED) {
            self.wrong(format!("{of} came to {}, which is not listed any more", machine.authority));
        }
        self.note(format!("{} gets {of}", machine.authority));
        let mut book = self.book();
        book.calls += 1;
        *book.open.entry(place.clone()).or_default() += 1;
        Open { world: self.clone(), place }
    }

    /// The calls that machines have.
    pub(crate) fn open_calls(&self) -> Vec<(String, String)> {
        self.book().open.keys().cloned().collect()
    }

    /// How many calls there were.
    pub(crate) fn calls(&self) -> usize {
        self.book().calls
    }

    /// Notes a blow, unless there were enough of them.
    pub(crate) fn strike(&self, whom: &str, blow: Blow) -> bool {
        let most = match blow {
            Blow::Broken => self.most_breaks,
            Blow::Failed => self.most_failures,
            Blow::Refused => usize::MAX,
        };
        if self.blows(whom, blow) >= most {
            return false;
        }
        self.note(format!("{whom} is {blow:?}"));
        *self.book().blows.entry((whom.to_owned(), blow)).or_default() += 1;
        true
    }

    pub(crate) fn blows(&self, whom: &str, blow: Blow) -> usize {
        self.book().blows.get(&(whom.to_owned(), blow)).copied().unwrap_or(0)
    }

    /// Writes the lists of those who are listed.
    pub(crate) fn write_lists(&self) {
        for (is_vision, list) in [true, false].into_iter().zip(self.lists.iter().flatten()) {
            let listed = self.machines.iter().filter(|machine| (machine.role == Role::Vision) == is_vision);
            let listed = listed.filter(|machine| machine.mood().unlisted.is_none());
            std::fs::write(list, listed.map(|machine| machine.url() + "\n").collect::<String>()).unwrap();
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.world.note(format!("{} is done with {}", self.place.0, self.place.1));
        let mut book = self.world.book();
        if let Some(count) = book.open.get_mut(&self.place) {
            *count -= 1;
            if *count == 0 {
                book.open.remove(&self.place);
            }
        }
    }
}
