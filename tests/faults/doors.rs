//! Links between processes on one machine: every worker has a door, a small TCP proxy that others reach it through, and that
//! can be cut, closed or slow, for all who come or for one of them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tessera_rpc::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::names::Name;

/// Bytes that travel as one.
const CHUNK: usize = 16 << 10;
/// Chunks on the way in one direction of a connection.
const CHUNKS: usize = 32;

/// A way to a worker: from one process, or from everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Link {
    pub(crate) from: Option<Name>,
    pub(crate) to: Name,
}

/// What is wrong with a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Weather {
    /// Nothing arrives any more, not even that a connection ended; what was sent arrives when the cable is back.
    Cut,
    /// Connections break, and new ones are closed at once.
    Closed,
    /// Everything comes late, and no more than so many bytes a second of one connection.
    Slow { delay: Duration, bytes_per_second: usize },
}

/// The doors of all workers.
#[derive(Debug)]
pub(crate) struct Doors {
    weather: watch::Sender<HashMap<Link, Weather>>,
    /// Who runs under which number now: a connection is somebody's whose process holds its socket.
    ids: Arc<Mutex<BTreeMap<Name, u32>>>,
    _tasks: Tasks,
}

/// What one connection sees of the weather.
#[derive(Clone)]
struct View {
    from: Option<Name>,
    to: Name,
    weather: watch::Receiver<HashMap<Link, Weather>>,
}

impl Doors {
    /// Opens a door for each of these: who it leads to, where it is and where that process listens.
    pub(crate) async fn open(doors: Vec<(Name, SocketAddr, SocketAddr)>) -> io::Result<Self> {
        let (weather, ids, tasks) = (watch::Sender::default(), Arc::default(), Tasks::default());
        for (to, door, target) in doors {
            let listener = TcpListener::bind(door).await?;
            let view = View { from: None, to, weather: weather.subscribe() };
            tasks.spawn(welcome(listener, target, view, Arc::clone(&ids), tasks.clone()));
        }
        Ok(Self { weather, ids, _tasks: tasks })
    }

    /// Notes under which number a process runs.
    pub(crate) fn note(&self, name: Name, id: u32) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(name, id);
    }

    /// Changes the weather of a link; nothing is wrong with it any more where there is none.
    pub(crate) fn set(&self, link: Link, weather: Option<Weather>) {
        self.weather.send_modify(|all| {
            match weather {
                Some(weather) => all.insert(link, weather),
                None => all.remove(&link),
            };
        });
    }
}

/// Takes connections for as long as the program runs.
async fn welcome(
    listener: TcpListener,
    target: SocketAddr,
    view: View,
    ids: Arc<Mutex<BTreeMap<Name, u32>>>,
    tasks: Tasks,
) {
    loop {
        let Ok((visitor, address)) = listener.accept().await else { continue };
        let known = ids.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let view = View { from: owner(address, &known), ..view.clone() };
        // A connection that breaks is the business of its two ends.
        tasks.spawn(async move { drop(carry(visitor, target, view).await) });
    }
}

/// Carries one connection to its end.
async fn carry(visitor: TcpStream, target: SocketAddr, mut view: View) -> io::Result<()> {
    let mut closing = view.clone();
    let carrying = async move {
        view.calm().await;
        let host = TcpStream::connect(target).await?;
        visitor.set_nodelay(true)?;
        host.set_nodelay(true)?;
        let (from_visitor, to_visitor) = visitor.into_split();
        let (from_host, to_host) = host.into_split();
        tokio::try_join!(pump(from_visitor, to_host, view.clone()), pump(from_host, to_visitor, view))?;
        Ok(())
    };
    tokio::select! {
        biased;
        () = closing.closed() => Ok(()),
        carried = carrying => carried,
    }
}

/// Carries one direction: what is read is written as the weather allows, its end and its breaking included.
async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut view: View,
) -> io::Result<()> {
    let (sender, mut chunks) = mpsc::channel::<(Instant, io::Result<Bytes>)>(CHUNKS);
    let reading = async move {
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = from.read(&mut buffer).await.map(|length| Bytes::copy_from_slice(&buffer[..length]));
            let is_last = read.as_ref().map_or(true, Bytes::is_empty);
            if sender.send((Instant::now(), read)).await.is_err() || is_last {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((read, chunk)) = chunks.recv().await {
            if let Some((delay, bytes_per_second)) = view.calm().await {
                let travel = chunk.as_ref().map_or(0, Bytes::len) as f64 / bytes_per_second as f64;
                tokio::time::sleep(Duration::from_secs_f64(travel)).await;
                tokio::time::sleep_until((read + delay).into()).await;
                view.calm().await;
            }
            let chunk = chunk?;
            if chunk.is_empty() {
                return to.shutdown().await;
            }
            to.write_all(&chunk).await?;
        }
        Ok(())
    };
    tokio::join!(reading, writing).1
}

impl View {
    fn now(&mut self) -> Option<Weather> {
        let all = self.weather.borrow_and_update();
        let of = |from| all.get(&Link { from, to: self.to }).copied();
        of(None).or_else(|| of(Some(self.from?)))
    }

    /// Waits until something can pass; says how slowly.
    async fn calm(&mut self) -> Option<(Duration, usize)> {
        loop {
            match self.now() {
                Some(Weather::Slow { delay, bytes_per_second }) => return Some((delay, bytes_per_second)),
                Some(Weather::Cut | Weather::Closed) if self.weather.changed().await.is_ok() => {}
                _ => return None,
            }
        }
    }

    /// Waits until the link is closed.
    async fn closed(&mut self) {
        while self.now() != Some(Weather::Closed) {
            if self.weather.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Whose end of a connection on this machine that address is.
fn owner(address: SocketAddr, ids: &BTreeMap<Name, u32>) -> Option<Name> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let SocketAddr::V4(address) = address else { return None };
    // As the kernel writes it: the address as a number of the machine's own byte order.
    let written = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
    let socket = table.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        (words.next()? == written).then(|| words.nth(7)).flatten()
    })?;
    let socket = format!("socket:[{socket}]");
    let holds = |id: u32| {
        let open = std::fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
        open.filter_map(|file| std::fs::read_link(file.path()).ok()).any(|file| file.as_os_str() == socket.as_str())
    };
    ids.iter().find(|(_, id)| holds(**id)).map(|(name, _)| *name)
}
