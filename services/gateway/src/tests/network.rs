//! A network inside of a process, in virtual time: machines that listen, and connections that are late, held up or cut.
//! What it carries is whatever tonic's own HTTP/2 writes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::{FutureExt, Stream};
use hyper_util::rt::TokioIo;
use tessera_api::Result;
use tessera_rpc::{ClientTls, Tasks, client};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::Uri;
use tonic::transport::Channel;

use super::dice::Dice;

/// Bytes that are on the way in each half of a connection.
const BUFFER: usize = 16 << 10;
/// Connections that nobody has accepted yet.
const BACKLOG: usize = 64;

thread_local! {
    static OF_THIS_THREAD: RefCell<Option<Network>> = const { RefCell::new(None) };
}

/// Makes a channel over the network of this thread; over the machine's where the thread simulates none.
pub(crate) fn channel_with(url: &str, tls: &ClientTls) -> Result<Channel> {
    let Some(network) = OF_THIS_THREAD.with_borrow(Clone::clone) else { return client::channel_with(url, tls) };
    let connect = move |to: Uri| {
        let network = network.clone();
        async move { network.connect(to.authority().map_or("", |authority| authority.as_str())).await.map(TokioIo::new) }
            .boxed()
    };
    Ok(client::endpoint(url)?.connect_with_connector_lazy(tower::service_fn(connect)))
}

/// All machines, by the authority of their URL.
#[derive(Clone)]
pub(crate) struct Network(Arc<Mutex<State>>);

struct State {
    machines: HashMap<String, Machine>,
    /// How long bytes take.
    latency: Range<Duration>,
    dice: Dice,
    tasks: Tasks,
}

struct Machine {
    /// Takes connections; nothing while nobody listens.
    door: Option<mpsc::Sender<io::Result<DuplexStream>>>,
    /// Nothing comes to or from it.
    held: watch::Sender<bool>,
    /// Ends the connections that there are.
    cut: CancellationToken,
}

/// What a half of a connection needs to know.
#[derive(Clone)]
struct Line {
    network: Network,
    held: watch::Receiver<bool>,
}

impl Network {
    pub(crate) fn new(latency: Range<Duration>, dice: Dice) -> Self {
        let (machines, tasks) = (HashMap::new(), Tasks::default());
        Self(Arc::new(Mutex::new(State { machines, latency, dice, tasks })))
    }

    /// Has all channels of this thread go over this network; over the machine's again with nothing.
    pub(crate) fn give_this_thread(network: Option<Self>) {
        OF_THIS_THREAD.set(network);
    }

    /// Takes the connections to a machine, until what is returned is dropped.
    pub(crate) fn listen(&self, at: &str) -> impl Stream<Item = io::Result<DuplexStream>> + Send + use<> {
        let (door, doors) = mpsc::channel(BACKLOG);
        self.change(at, |machine| machine.door = Some(door));
        ReceiverStream::new(doors)
    }

    /// Nobody listens there any more, and the connections that there are break.
    pub(crate) fn close(&self, at: &str) {
        self.change(at, |machine| machine.door = None);
        self.cut(at);
    }

    /// Breaks the connections that there are.
    pub(crate) fn cut(&self, at: &str) {
        self.change(at, |machine| std::mem::take(&mut machine.cut).cancel());
    }

    /// Holds up what goes to and from a machine, or lets it go on.
    pub(crate) fn hold(&self, at: &str, held: bool) {
        self.change(at, |machine| _ = machine.held.send_replace(held));
    }

    /// Whether what goes to and from a machine is held up.
    pub(crate) fn is_held(&self, at: &str) -> bool {
        self.change(at, |machine| *machine.held.borrow())
    }

    /// Waits until what goes to and from a machine is not held up.
    pub(crate) async fn pass(&self, at: &str) {
        let mut held = self.change(at, |machine| machine.held.subscribe());
        let _ = held.wait_for(|held| !held).await;
    }

    async fn connect(&self, to: &str) -> io::Result<DuplexStream> {
        let held = self.change(to, |machine| machine.held.subscribe());
        let line = Line { network: self.clone(), held };
        line.clone().pass().await;
        let (door, cut) = self.change(to, |machine| (machine.door.clone(), machine.cut.clone()));
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let door = door.ok_or_else(refused)?;
        let ((ours, near), (far, theirs)) = (duplex(BUFFER), duplex(BUFFER));
        let ((from_us, to_us), (from_them, to_them)) = (split(near), split(far));
        let there = line.clone().carry(from_us, to_them);
        let back = line.carry(from_them, to_us);
        let tasks = self.state().tasks.clone();
        tasks.spawn(async move { cut.run_until_cancelled(async { tokio::join!(there, back) }).await.is_some() });
        door.send(Ok(theirs)).await.map_err(|_| refused())?;
        Ok(ours)
    }

    fn change<T>(&self, at: &str, change: impl FnOnce(&mut Machine) -> T) -> T {
        let mut state = self.state();
        let machine = state.machines.entry(at.to_owned()).or_insert_with(|| Machine {
            door: None,
            held: watch::Sender::new(false),
            cut: CancellationToken::new(),
        });
        change(machine)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl Line {
    /// Takes as long as bytes take, and longer while they are held up.
    async fn pass(&mut self) {
        let latency = {
            let mut state = self.network.state();
            let range = state.latency.clone();
            state.dice.time(&range)
        };
        tokio::time::sleep(latency).await;
        let _ = self.held.wait_for(|held| !held).await;
    }

    /// Carries bytes in order until there are no more, or nobody takes them.
    async fn carry(mut self, mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>) {
        let mut bytes = vec![0; BUFFER];
        loop {
            let count = from.read(&mut bytes).await.unwrap_or(0);
            self.pass().await;
            if count == 0 || to.write_all(&bytes[..count]).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    }
}
