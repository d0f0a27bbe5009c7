//! The way of the images: found, read, sent, answered. Everything on it has a bound, so that memory does not grow with
//! their number.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{anyhow, bail};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{BoxStream, FuturesUnordered};
use tessera_api::gateway::Encoded;
use tessera_api::{Error, ErrorKind};
use tessera_rpc::Tasks;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use super::line::{Failure, ImageFile};
use super::read::read;
use super::report::Report;
use super::search::{self, Found};
use crate::client::{self, Access, Image, Outcome, Store};

/// Files that are known and not yet read: of so many, the bar can say how many there are.
const FOUND: usize = 1 << 16;
/// Images from the beginning of reading to the answer, twice what a gateway encodes at once.
const ON_THE_WAY: usize = 64;
/// Their bytes; an image that is larger goes alone.
const BYTES_ON_THE_WAY: u64 = 256 << 20;
/// Images in a row that fail because somebody cannot be reached: then all will.
const UNREACHABLE: usize = ON_THE_WAY;

/// Where images are encoded, and how.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) gateway: Access,
    pub(super) lease: Option<Duration>,
    /// It ends with this program: what its store did not take is lost.
    pub(super) ends_with_us: bool,
}

/// The images of one run.
pub(super) struct Flow {
    report: Report,
    tasks: Tasks,
    store: Store,
    /// What is not durable is lost.
    must_be_durable: bool,
    /// Ends with the search.
    found: Option<mpsc::Receiver<Found>>,
    /// Found and not yet read, and whether the manifest knows it.
    waiting: VecDeque<(ImageFile, Before)>,
    reading: FuturesUnordered<JoinHandle<(Read, Before, u64)>>,
    /// Ends when everything is sent.
    sender: Option<mpsc::Sender<Image>>,
    sent: HashMap<u64, Sent>,
    answers: BoxStream<'static, tessera_api::Result<Outcome>>,
    bytes_on_the_way: u64,
    next_id: u64,
    /// An image that the manifest knows was sent.
    probed: bool,
    /// It was found out what encodes the images.
    encoder_known: bool,
    unreachable: usize,
}

type Read = Result<(ImageFile, Bytes), Failure>;

/// What the manifest says of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// Nothing, or that it failed.
    New,
    /// That it is stored.
    Done,
}

#[derive(Debug)]
struct Sent {
    file: ImageFile,
    before: Before,
    /// By which it counts.
    size: u64,
}

impl Flow {
    /// Begins to search and to send.
    ///
    /// # Errors
    /// When the URL is none, or the system gives no thread.
    pub(super) fn start(named: Vec<PathBuf>, to: &Destination, report: Report) -> anyhow::Result<Self> {
        let (tell, found) = mpsc::channel(1024);
        search::start(named, tell)?;
        // As many as there can be: sending never waits.
        let (sender, images) = mpsc::channel(ON_THE_WAY);
        Ok(Self {
            report,
            tasks: Tasks::default(),
            store: Store::new(&to.gateway)?,
            must_be_durable: to.ends_with_us,
            found: Some(found),
            waiting: VecDeque::new(),
            reading: FuturesUnordered::new(),
            sender: Some(sender),
            sent: HashMap::new(),
            answers: client::encode_batch(&to.gateway, ReceiverStream::new(images), to.lease)?,
            bytes_on_the_way: 0,
            next_id: 0,
            probed: false,
            encoder_known: false,
            unreachable: 0,
        })
    }

    /// Goes on until everything is answered. What happened until an error is in the report, too.
    ///
    /// # Errors
    /// When the gateway is lost, the manifest is of another encoder, or nothing can be written.
    pub(super) async fn run(&mut self) -> anyhow::Result<()> {
        loop {
            self.begin_reading();
            if self.found.is_none() && self.waiting.is_empty() && self.reading.is_empty() {
                self.sender = None;
            }
            tokio::select! {
                found = next(&mut self.found), if self.waiting.len() < FOUND => match found {
                    Some(found) => self.take(found)?,
                    None => {
                        self.found = None;
                        self.report.all_found();
                    }
                },
                Some(read) = self.reading.next() => self.send(read?)?,
                answer = self.answers.next() => match answer.transpose() {
                    Ok(Some(outcome)) => self.answered(outcome).await?,
                    Ok(None) if self.sender.is_none() && self.sent.is_empty() => return Ok(()),
                    Ok(None) => bail!("the gateway broke off; run it again to go on"),
                    Err(error) if self.next_id == 0 => return Err(error.into()),
                    Err(error) => return Err(anyhow!("{error}; the gateway is lost, run it again to go on")),
                },
            }
        }
    }

    /// The report.
    pub(super) fn into_report(self) -> Report {
        self.report
    }

    fn take(&mut self, found: Found) -> anyhow::Result<()> {
        self.report.found();
        match found {
            Ok(file) if !self.report.is_done(&file) => self.waiting.push_back((file, Before::New)),
            // One is sent again, to see whether model and store are those of the manifest.
            Ok(file) if !self.probed => {
                self.probed = true;
                self.waiting.push_back((file, Before::Done));
            }
            Ok(_) => self.report.skipped(),
            Err(failure) => self.report.failed(failure)?,
        }
        Ok(())
    }

    fn begin_reading(&mut self) {
        while self.reading.len() + self.sent.len() < ON_THE_WAY
            && let Some((file, before)) = self.waiting.pop_front()
        {
            let size = file.stamp.size;
            if self.bytes_on_the_way > 0 && self.bytes_on_the_way + size > BYTES_ON_THE_WAY {
                return self.waiting.push_front((file, before));
            }
            self.bytes_on_the_way += size;
            self.reading.push(self.tasks.spawn_blocking(move || (read(file), before, size)));
        }
    }

    fn send(&mut self, (read, before, size): (Read, Before, u64)) -> anyhow::Result<()> {
        let (file, bytes) = match read {
            Ok(read) => read,
            Err(failure) => {
                self.bytes_on_the_way -= size;
                return self.report.failed(failure);
            }
        };
        let id = self.next_id;
        self.next_id += 1;
        self.sent.insert(id, Sent { file, before, size });
        let sender = self.sender.as_ref().ok_or_else(|| anyhow!("an image was read after everything was sent"))?;
        // Where the stream has ended, its answers say why.
        let _ = sender.try_send(Image { id, bytes });
        Ok(())
    }

    async fn answered(&mut self, Outcome { id, encoded }: Outcome) -> anyhow::Result<()> {
        let Some(Sent { file, before, size }) = self.sent.remove(&id) else {
            bail!("the gateway answers for image {id}, which was not sent or was answered");
        };
        self.bytes_on_the_way -= size;
        match encoded {
            Ok(encoded) if self.must_be_durable && !encoded.durable => self.report.failed(Failure::not_kept(file.path)),
            Ok(encoded) => {
                self.unreachable = 0;
                self.check_encoder(&encoded).await?;
                if before == Before::Done && encoded.stored_before {
                    self.report.skipped();
                    return Ok(());
                }
                if before == Before::Done {
                    self.report.note(&format!(
                        "{} is done by the manifest, and was not stored any more: others may be gone as well, or it was \
                         another store; with another --manifest all are looked at again",
                        file.path
                    ));
                }
                self.report.encoded(&file, &encoded)
            }
            Err(error) => {
                self.count_unreachable(&error)?;
                self.report.failed(Failure::refused(file.path, error))
            }
        }
    }

    /// Looks at what encoded the first image that is answered, for the manifest.
    async fn check_encoder(&mut self, encoded: &Encoded) -> anyhow::Result<()> {
        if self.encoder_known || !self.report.wants_encoder() {
            return Ok(());
        }
        self.encoder_known = true;
        let stored = match self.store.stat(&[encoded.image.key]).await {
            Ok(statuses) => statuses.first().and_then(|status| status.stored),
            // A gateway or a store that does not tell.
            Err(error) if error.kind == ErrorKind::Unsupported => None,
            Err(error) => return Err(error.into()),
        };
        match stored {
            Some(stored) => self.report.encoded_by(stored.encoder),
            None => Ok(()),
        }
    }

    fn count_unreachable(&mut self, error: &Error) -> anyhow::Result<()> {
        self.unreachable = if error.kind == ErrorKind::Unavailable { self.unreachable + 1 } else { 0 };
        if self.unreachable == UNREACHABLE {
            bail!("{UNREACHABLE} images in a row failed, the last with: {error}; run it again to go on");
        }
        Ok(())
    }
}

/// The next that is found; waits for ever when there is nothing more to be found.
async fn next(found: &mut Option<mpsc::Receiver<Found>>) -> Option<Found> {
    match found {
        Some(found) => found.recv().await,
        None => std::future::pending().await,
    }
}
