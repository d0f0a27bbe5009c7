//! The load: clients who ask one thing after the other, and what became of each.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::future::join_all;
use tessera_embedding::ImageKey;

use crate::client::{Client, Failure, Way};
use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::log::Log;
use crate::questions::{Picture, Question, file, questions};
use crate::told::Told;

/// Copies of a picture that many ask about: each is another image, and all show the same.
const POPULAR: u64 = 6;
/// Images of a batch.
const BATCH: usize = 5;
/// How long a client thinks between two requests, at most.
const THINKING: Duration = Duration::from_millis(200);
/// How often a handle is made anew for one question.
const RESENT: usize = 3;
/// Who asks about one new picture at the same moment.
const FLOCK: usize = 4;
/// The longest time that an image is leased for.
pub(crate) const LEASE: Duration = Duration::from_secs(5);

/// One thing that was asked.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) task: &'static str,
    /// The gateway that was asked first.
    pub(crate) gateway: usize,
    pub(crate) has_pictures: bool,
    pub(crate) has_answer: bool,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) way: Way,
    /// A handle stood for nothing any more, and the image was sent again.
    pub(crate) resent: usize,
    pub(crate) failure: Option<Failure>,
}

impl Record {
    pub(crate) fn took(&self) -> Duration {
        self.ended - self.began
    }
}

/// Questions with their undisturbed answers, and what clients share.
pub(crate) struct Load<'a> {
    cluster: &'a Cluster,
    log: &'a Log,
    seed: u64,
    questions: Vec<Question>,
    answers: Vec<Told>,
    /// Rows of the pictures of every case.
    rows: HashMap<(&'static str, usize), Bytes>,
    handles: RefCell<HashMap<(&'static str, usize, u64), ImageKey>>,
    /// Copies of pictures that nobody has asked about yet begin here.
    next_copy: Cell<u64>,
    pub(crate) leases: RefCell<Vec<(ImageKey, SystemTime)>>,
    pub(crate) records: RefCell<Vec<Record>>,
    pub(crate) over: Cell<bool>,
}

/// How the pictures of a question are named.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Naming {
    /// Images that nobody has asked about.
    New,
    /// Images that many ask about.
    Popular,
    /// The same, by their handles.
    Handles,
}

impl<'a> Load<'a> {
    /// Asks everything once, on the quiet cluster and at each gateway: these are the undisturbed answers.
    pub(crate) async fn prepare(cluster: &'a Cluster, log: &'a Log, seed: u64) -> anyhow::Result<Self> {
        let mut load = Self {
            cluster,
            log,
            seed,
            questions: questions(),
            answers: Vec::new(),
            rows: HashMap::new(),
            handles: RefCell::default(),
            next_copy: Cell::new(1 << 32),
            leases: RefCell::default(),
            records: RefCell::default(),
            over: Cell::new(false),
        };
        let (mut first, mut second) = (Client::new(cluster, 0), Client::new(cluster, 1));
        for question in load.questions.clone() {
            let originals: Vec<Picture> =
                (0..question.pictures()).map(|index| Picture::File(file(question.case, index, 0))).collect();
            let request = question.request(&originals);
            let failed = |failure| anyhow::anyhow!("{}: {failure:?}, and nothing is disturbed yet", question.name);
            let (told, _) = first.ask(&request, None).await.map_err(failed)?;
            second.ask(&request, Some(&told)).await.map_err(failed)?;
            load.answers.push(told);
            for index in 0..question.pictures() {
                let image = file(question.case, index, 0);
                let (_, rows, _) = first.encode(&image, None, None).await.map_err(failed)?;
                load.rows.insert((question.case, index), rows);
            }
        }
        Ok(load)
    }

    /// Tokens of all undisturbed answers.
    pub(crate) fn tokens(&self) -> usize {
        self.answers.iter().map(Told::tokens).sum()
    }

    pub(crate) fn questions(&self) -> usize {
        self.questions.len()
    }

    /// Asks everything once more, at this gateway.
    pub(crate) async fn ask_everything(&self, gateway: usize) -> Vec<String> {
        let mut client = Client::new(self.cluster, gateway);
        let mut wrong = Vec::new();
        for index in 0..self.questions.len() {
            let record = self.ask(&mut client, index, Naming::New).await;
            if let Some(failure) = record.failure {
                wrong.push(format!("once all was quiet, {} at gateway-{gateway}, {failure}", record.task));
            }
        }
        wrong
    }

    /// One of several clients; it ends when the load is over.
    pub(crate) async fn client(&self, number: usize) {
        let mut dice = Dice::new(self.seed, 1000 + number as u64);
        let home = number % 2;
        let mut client = Client::new(self.cluster, home);
        while !self.over.get() {
            tokio::time::sleep(dice.between(Duration::ZERO, THINKING)).await;
            client.gateway = home;
            let done = match dice.below(100) {
                0..5 => self.flock(&mut dice).await,
                5..15 => vec![self.encode(&mut client, &mut dice).await],
                15..19 => vec![self.batch(&mut client, &mut dice).await],
                _ => {
                    let naming = dice.choose(&[Naming::New, Naming::New, Naming::Popular, Naming::Handles]);
                    let question = dice.below(self.questions.len());
                    vec![self.ask(&mut client, question, naming).await]
                }
            };
            for record in &done {
                if let Some(failure) = &record.failure {
                    self.log.say(&format!("{}, after {:.1} s, {failure}", record.task, record.took().as_secs_f64()));
                }
            }
            self.records.borrow_mut().extend(done);
        }
    }

    async fn ask(&self, client: &mut Client<'_>, question: usize, naming: Naming) -> Record {
        let (asked, answer) = (&self.questions[question], &self.answers[question]);
        let copies: Vec<u64> = (0..asked.pictures()).map(|_| self.copy(naming)).collect();
        let began = Instant::now();
        let (gateway, mut way, mut resent) = (client.gateway, Way::default(), 0);
        let failure = loop {
            let told = async {
                let request = asked.request(&self.pictures(client, asked, &copies, naming).await?);
                client.ask(&request, Some(answer)).await
            };
            match told.await {
                Ok((_, more)) => {
                    way = more;
                    break None;
                }
                Err(Failure::Gone) if naming == Naming::Handles && resent < RESENT => {
                    resent += 1;
                    for (index, copy) in copies.iter().enumerate() {
                        self.handles.borrow_mut().remove(&(asked.case, index, *copy));
                    }
                }
                Err(failure) => break Some(failure),
            }
        };
        let (has_pictures, ended) = (!copies.is_empty(), Instant::now());
        Record { task: asked.name, gateway, has_pictures, has_answer: true, began, ended, way, resent, failure }
    }

    /// The pictures of a question, as they are named.
    async fn pictures(
        &self,
        client: &mut Client<'_>,
        asked: &Question,
        copies: &[u64],
        naming: Naming,
    ) -> Result<Vec<Picture>, Failure> {
        let mut pictures = Vec::new();
        for (index, copy) in copies.iter().enumerate() {
            let image = file(asked.case, index, *copy);
            if naming != Naming::Handles {
                pictures.push(Picture::File(image));
                continue;
            }
            let place = (asked.case, index, *copy);
            let known = self.handles.borrow().get(&place).copied();
            let handle = match known {
                Some(handle) => handle,
                None => client.encode(&image, None, self.rows.get(&(asked.case, index))).await?.0.image.key,
            };
            self.handles.borrow_mut().insert(place, handle);
            pictures.push(Picture::Handle(handle));
        }
        Ok(pictures)
    }

    fn copy(&self, naming: Naming) -> u64 {
        let copy = self.next_copy.get();
        self.next_copy.set(copy + 1);
        if naming == Naming::New { copy } else { 1 + copy % POPULAR }
    }

    /// Several ask about one new picture at the same moment, at both gateways: it is encoded once, or nearly, and pulled by
    /// whoever answers.
    async fn flock(&self, dice: &mut Dice) -> Vec<Record> {
        let shown: Vec<usize> =
            (0..self.questions.len()).filter(|&index| self.questions[index].pictures() == 1).collect();
        let case = self.questions[dice.choose(&shown)].case;
        let about: Vec<usize> = shown.into_iter().filter(|&index| self.questions[index].case == case).collect();
        let copy = self.copy(Naming::New);
        let asks = (0..FLOCK).map(|number| {
            let question = about[number % about.len()];
            async move {
                let mut client = Client::new(self.cluster, number % 2);
                let (asked, began) = (&self.questions[question], Instant::now());
                let request = asked.request(&[Picture::File(file(asked.case, 0, copy))]);
                let done = client.ask(&request, Some(&self.answers[question])).await;
                let (way, failure) = parted(done.map(|(_, way)| way));
                let (task, gateway, ended) = ("several about one new picture", number % 2, Instant::now());
                let (has_pictures, has_answer) = (true, true);
                Record { task, gateway, has_pictures, has_answer, began, ended, way, resent: 0, failure }
            }
        });
        join_all(asks).await
    }

    async fn encode(&self, client: &mut Client<'_>, dice: &mut Dice) -> Record {
        let (case, index) = dice.choose(&[("one_image", 0), ("portrait", 0), ("two_images", 1)]);
        let copy = self.copy(dice.choose(&[Naming::New, Naming::Popular]));
        let lease = dice.percent(40).then(|| dice.between(LEASE / 4, LEASE));
        let (gateway, began) = (client.gateway, Instant::now());
        let done = client.encode(&file(case, index, copy), lease, self.rows.get(&(case, index))).await;
        let done = done.map(|(encoded, _, way)| {
            self.leases.borrow_mut().extend(encoded.leased_until.map(|until| (encoded.image.key, until)));
            way
        });
        let (way, failure) = parted(done);
        let (task, ended) = ("encoding with rows", Instant::now());
        let (has_pictures, has_answer) = (true, false);
        Record { task, gateway, has_pictures, has_answer, began, ended, way, resent: 0, failure }
    }

    async fn batch(&self, client: &mut Client<'_>, dice: &mut Dice) -> Record {
        let new = |_| self.copy(Naming::New);
        let copies: Vec<u64> = (0..BATCH).map(new).collect();
        let case = dice.choose(&["one_image", "portrait"]);
        let images: Vec<Bytes> = copies.into_iter().map(|copy| file(case, 0, copy)).collect();
        let (gateway, began) = (client.gateway, Instant::now());
        let (way, failure) = parted(client.batch(&images).await);
        let (task, ended) = ("batch of images", Instant::now());
        let (has_pictures, has_answer) = (true, false);
        Record { task, gateway, has_pictures, has_answer, began, ended, way, resent: 0, failure }
    }
}

fn parted(done: Result<Way, Failure>) -> (Way, Option<Failure>) {
    match done {
        Ok(way) => (way, None),
        Err(failure) => (Way::default(), Some(failure)),
    }
}
