//! A tower without numbers, and images whose pixels all say which tile they are of.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tessera_anyres::{Geometry, ImageSize, Plan};
use tessera_api::{Error, ErrorKind, Result};
use tessera_tensor::HostTensor;
use tokio::sync::oneshot;

use super::super::{EncodeJob, Features, Tower};

pub(in crate::device) type Reply = oneshot::Receiver<Result<Features>>;

/// An image of so many tiles.
pub(in crate::device) fn job(image: f32, tiles: usize) -> (EncodeJob, Reply) {
    let pixels = (0..tiles).flat_map(|tile| [image * 100.0 + tile as f32; 3]).collect();
    let pixels = HostTensor::from_f32(vec![tiles, 3, 1, 1], pixels).unwrap();
    let (reply, done) = oneshot::channel();
    (EncodeJob { pixels, plan: plan(), sent: Instant::now(), reply }, done)
}

pub(in crate::device) fn plan() -> Plan {
    let side = ImageSize { height: 4, width: 4 };
    Geometry::new(vec![side], 4, 2).unwrap().plan(side)
}

/// Two patches a tile, each the tile's own number.
pub(in crate::device) fn encode(pixels: &[HostTensor]) -> HostTensor {
    let pixels: Vec<f32> = pixels.iter().flat_map(HostTensor::to_f32).collect();
    let rows: Vec<f32> = pixels.chunks(3).flat_map(|tile| [tile[0]; 2]).collect();
    HostTensor::from_f32(vec![rows.len(), 1], rows).unwrap()
}

/// Notes what it is asked, and fails over tiles whose number says so.
#[derive(Default)]
pub(in crate::device) struct FakeTower {
    pub(in crate::device) passes: usize,
    pub(in crate::device) asked: Mutex<Vec<String>>,
    /// How long a pass takes.
    pub(in crate::device) time: Duration,
}

/// The number of a tile over which a pass cannot be started.
pub(in crate::device) const NO_START: f32 = 700.0;
/// The number of a tile over which a pass fails in the end.
pub(in crate::device) const NO_END: f32 = 800.0;

impl FakeTower {
    fn note(&self, what: &str, tiles: &HostTensor) {
        let first = tiles.to_f32()[0];
        self.asked.lock().unwrap().push(format!("{what} {first}"));
    }
}

fn failure(why: &str) -> Error {
    Error::new(ErrorKind::Internal, "MODEL_FAILED", why.to_owned())
}

impl Tower for FakeTower {
    type Pass = HostTensor;

    fn passes_at_once(&self) -> usize {
        self.passes
    }

    fn start(&self, pixels: &[HostTensor]) -> Result<HostTensor> {
        let rows = encode(pixels);
        self.note("start", &rows);
        if rows.to_f32().contains(&NO_START) { Err(failure("at the start")) } else { Ok(rows) }
    }

    fn finish(&self, pass: HostTensor) -> Result<HostTensor> {
        self.note("finish", &pass);
        let began = Instant::now();
        while began.elapsed() < self.time {
            std::hint::spin_loop();
        }
        if pass.to_f32().contains(&NO_END) { Err(failure("at the end")) } else { Ok(pass) }
    }

    fn pack(&self, encoded: &HostTensor, _: &Plan) -> Result<HostTensor> {
        Ok(encoded.clone())
    }

    fn project(&self, features: &HostTensor, _: &Plan) -> Result<HostTensor> {
        self.note("project", features);
        Ok(features.clone())
    }
}
