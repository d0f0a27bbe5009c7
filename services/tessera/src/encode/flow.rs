//! The way of the images: found, read, sent, answered. Everything on it has a bound, so that memory does not grow with
//! their number.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{anyhow, bail};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tessera_client::{Batch, Client, Encode, Encoded, Error, ErrorKind, MAX_IN_FLIGHT, Store};
use tessera_rpc::Tasks;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use super::line::{Failure, ImageFile};
use super::read::read;
use super::report::Report;
use super::search::{self, Found};
use crate::access::explained;

/// Files that are known and not yet read: of so many, the bar can say how many there are.
const FOUND: usize = 1 << 16;
/// Images from the beginning of reading to the answer.
const ON_THE_WAY: usize = MAX_IN_FLIGHT;
/// Their bytes; an image that is larger goes alone.
const BYTES_ON_THE_WAY: u64 = 256 << 20;
/// Images in a row that fail because somebody cannot be reached: then all will.
const UNREACHABLE: usize = ON_THE_WAY;

/// Where images are encoded, and how.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) gateway: Client,
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
    sender: Option<mpsc::Sender<(Sent, Encode)>>,
    answers: Batch<Sent>,
    lease: Option<Duration>,
    /// Sent and not answered.
    on_the_way: usize,
    bytes_on_the_way: u64,
    /// An image was sent.
    began: bool,
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
    /// When the system gives no thread.
    pub(super) fn start(named: Vec<PathBuf>, to: &Destination, report: Report) -> anyhow::Result<Self> {
        let (tell, found) = mpsc::channel(1024);
        search::start(named, tell)?;
        // As many as there can be: sending never waits.
        let (sender, images) = mpsc::channel(ON_THE_WAY);
        Ok(Self {
            report,
            tasks: Tasks::default(),
            store: to.gateway.store(),
            must_be_durable: to.ends_with_us,
            found: Some(found),
            waiting: VecDeque::new(),
            reading: FuturesUnordered::new(),
            sender: Some(sender),
            answers: to.gateway.encode_batch(ReceiverStream::new(images)),
            lease: to.lease,
            on_the_way: 0,
            bytes_on_the_way: 0,
            began: false,
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
                answer = self.answers.next() => match answer {
                    Some(Ok((sent, encoded))) => self.answered(sent, encoded).await?,
                    None => return Ok(()),
                    Some(Err(error)) if !self.began => return Err(explained(error).into()),
                    Some(Err(error)) => return Err(anyhow!("{error}; the gateway is lost, run it again to go on")),
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
        while self.reading.len() + self.on_the_way < ON_THE_WAY
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
        self.on_the_way += 1;
        self.began = true;
        let sender = self.sender.as_ref().ok_or_else(|| anyhow!("an image was read after everything was sent"))?;
        let image = Encode::new(bytes);
        let image = match self.lease {
            Some(period) => image.lease(period),
            None => image,
        };
        // Where the stream has ended, its answers say why.
        let _ = sender.try_send((Sent { file, before, size }, image));
        Ok(())
    }

    async fn answered(&mut self, sent: Sent, encoded: Result<Encoded, Error>) -> anyhow::Result<()> {
        let Sent { file, before, size } = sent;
        self.on_the_way -= 1;
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
