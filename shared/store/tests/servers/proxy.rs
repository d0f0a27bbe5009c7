//! A TCP proxy in front of a server, for what networks do: break off and fall silent.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// What it does to connections.
#[derive(Clone, Copy, Default)]
struct Faults {
    /// Bytes after which a connection breaks off, to the server and from it.
    cut_up: Option<usize>,
    cut_down: Option<usize>,
    /// Answers are held back.
    held: bool,
    stopped: bool,
}

#[derive(Default)]
struct Shared {
    faults: Mutex<Faults>,
    changed: Condvar,
}

/// A proxy. Ends with the test.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Stands in front of a port of this machine.
    pub(crate) fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared::default());
        let proxy = Self { port, shared: shared.clone() };
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let faults = *shared.faults.lock().unwrap();
                if faults.stopped {
                    break;
                }
                // Without a server the client's connection breaks off.
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let (up, down) = ((client.try_clone(), server.try_clone()), (server, client));
                let (Ok(from), Ok(to)) = up else { continue };
                pump(from, to, faults.cut_up, None);
                pump(down.0, down.1, faults.cut_down, Some(shared.clone()));
            }
        });
        proxy
    }

    /// From now on new connections break off after so many bytes to the server.
    pub(crate) fn cut_up(&self, after: Option<usize>) {
        self.change(|faults| faults.cut_up = after);
    }

    /// From now on new connections break off after so many bytes from the server.
    pub(crate) fn cut_down(&self, after: Option<usize>) {
        self.change(|faults| faults.cut_down = after);
    }

    /// Holds answers back, or lets them go.
    pub(crate) fn hold(&self, held: bool) {
        self.change(|faults| faults.held = held);
    }

    fn change(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.faults.lock().unwrap());
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.change(|faults| (faults.stopped, faults.held) = (true, false));
        // Wakes the one that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Passes bytes on until either side ends or so many have passed; then both connections break off.
fn pump(mut from: TcpStream, mut to: TcpStream, cut: Option<usize>, hold: Option<Arc<Shared>>) {
    thread::spawn(move || {
        let (mut left, mut buffer) = (cut.unwrap_or(usize::MAX), vec![0; 1 << 14]);
        while left > 0 {
            let most = buffer.len().min(left);
            let read = from.read(&mut buffer[..most]).unwrap_or(0);
            if read == 0 {
                break;
            }
            if let Some(shared) = &hold {
                let faults = shared.faults.lock().unwrap();
                drop(shared.changed.wait_while(faults, |faults| faults.held).unwrap());
            }
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
            left -= read;
        }
        // The other side may have closed them already.
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    });
}
