//! Where every process listens and is reached, and how the way there is cut: by doors, or by network namespaces.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use crate::doors::{Doors, Link, Weather};
use crate::names::{Name, Role};
use crate::namespaces::{self, Namespaces};

/// The network of a cluster.
#[derive(Debug)]
pub(crate) enum Network {
    /// Everything on loopback. Each process has an address of its own there, of which the number is the network's: two
    /// clusters on one machine do not meet, and no connection ever takes a port that somebody will listen on again.
    Loopback {
        doors: Doors,
        number: u8,
    },
    Namespaces(Namespaces),
}

/// The second byte of loopback addresses where processes listen, and of those of their doors.
const HOUSES: u8 = 77;
const DOORS: u8 = 78;

impl Network {
    pub(crate) async fn loopback() -> anyhow::Result<Self> {
        let number = (std::process::id() % 250) as u8 + 1;
        let workers = [Role::Vision, Role::Language].into_iter().flat_map(Role::names);
        let doors = workers.map(|name| (name, loopback(DOORS, number, name), loopback(HOUSES, number, name))).collect();
        Ok(Self::Loopback { doors: Doors::open(doors).await?, number })
    }

    pub(crate) fn namespaces() -> anyhow::Result<Self> {
        Ok(Self::Namespaces(Namespaces::make().map_err(anyhow::Error::msg)?))
    }

    /// Where a process listens. Nothing is ever wrong with the way there from this program, but in a namespace.
    pub(crate) fn listens(&self, name: Name) -> SocketAddr {
        match self {
            Self::Loopback { number, .. } => loopback(HOUSES, *number, name),
            Self::Namespaces(_) => namespaces::address(name),
        }
    }

    /// The URL by which other processes know it.
    pub(crate) fn url(&self, name: Name) -> String {
        let address = match self {
            Self::Loopback { number, .. } if name.role != Role::Gateway => loopback(DOORS, *number, name),
            _ => self.listens(name),
        };
        format!("http://{address}")
    }

    /// The address of what belongs to no worker.
    pub(crate) fn host(&self) -> Ipv4Addr {
        match self {
            Self::Loopback { number, .. } => Ipv4Addr::new(127, HOUSES, *number, 9),
            Self::Namespaces(spaces) => spaces.host(),
        }
    }

    /// A command that runs a program where this process is to be.
    pub(crate) fn command(&self, name: Name, program: &Path) -> Command {
        match self {
            Self::Loopback { .. } => Command::new(program),
            Self::Namespaces(spaces) => spaces.command(name, program),
        }
    }

    /// Notes under which number a process runs.
    pub(crate) fn note(&self, name: Name, id: u32) {
        if let Self::Loopback { doors, .. } = self {
            doors.note(name, id);
        }
    }

    /// Makes a link as bad as that; well again where there is nothing wrong.
    pub(crate) fn set(&self, link: Link, weather: Option<Weather>) {
        match (self, weather) {
            (Self::Loopback { doors, .. }, weather) => doors.set(link, weather),
            (Self::Namespaces(spaces), Some(Weather::Slow { .. })) => spaces.slow(link.to),
            (Self::Namespaces(spaces), Some(_)) => spaces.cut(link.to),
            (Self::Namespaces(spaces), None) => spaces.heal(link.to),
        }
    }

    /// Whether a link can be bad for one process only, and connections be broken.
    pub(crate) fn has_doors(&self) -> bool {
        matches!(self, Self::Loopback { .. })
    }

    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Loopback { .. } => "loopback, links through proxies".into(),
            Self::Namespaces(spaces) => format!("network namespaces, slow is `tc {}`", spaces.kind_of_slow()),
        }
    }
}

fn loopback(second: u8, third: u8, name: Name) -> SocketAddr {
    let last = 10 * (1 + name.role as u8) + name.number as u8;
    (Ipv4Addr::new(127, second, third, last), 50051 + name.role as u16).into()
}
