//! Tiles of waiting images, cut into forward passes: first come, first served, one image may span passes.

use std::collections::VecDeque;
use std::time::Instant;

use tessera_anyres::Plan;
use tessera_api::{Error, ErrorKind, Result};
use tessera_tensor::HostTensor;

use super::{EncodeJob, Features};

/// Images that wait, and how far the first of them is.
pub(super) struct Batcher {
    tiles_per_pass: usize,
    waiting: VecDeque<Progress>,
}

struct Progress {
    job: EncodeJob,
    tiles: usize,
    /// Tiles that are in a pass already.
    started: usize,
    began: Option<Instant>,
    /// Rows of the tiles that are done, in order.
    rows: Vec<HostTensor>,
}

/// Tiles of one image in a pass.
struct Share {
    tiles: usize,
}

impl Batcher {
    pub(super) fn new(tiles_per_pass: usize) -> Self {
        Self { tiles_per_pass, waiting: VecDeque::new() }
    }

    pub(super) fn push(&mut self, job: EncodeJob) {
        let tiles = job.pixels.shape().first().copied().unwrap_or(0);
        self.waiting.push_back(Progress { job, tiles, started: 0, began: None, rows: Vec::new() });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// True when more images would not make the next pass larger.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.iter().map(|progress| progress.tiles - progress.started).sum::<usize>() >= self.tiles_per_pass
    }

    /// Runs one pass and answers the images that it completes. `encode`: `[tiles, 3, side, side]` to
    /// `[tiles * patches, channels]`; `pack`: all rows of an image to its features.
    pub(super) fn run(
        &mut self,
        encode: impl FnOnce(&HostTensor) -> Result<HostTensor>,
        pack: impl Fn(&HostTensor, &Plan) -> Result<HostTensor>,
    ) {
        // Nobody waits any more: not worth a pass.
        self.waiting.retain(|progress| !progress.job.reply.is_closed());
        if self.waiting.is_empty() {
            return;
        }
        let (pixels, shares) = match self.take_pass() {
            Ok(pass) => pass,
            Err(error) => return self.fail(usize::MAX, &error),
        };
        match encode(&pixels).and_then(|rows| self.distribute(&rows, &shares)) {
            Ok(()) => self.answer(pack),
            Err(error) => self.fail(shares.len(), &error),
        }
    }

    /// Puts the next tiles together: all of one image's if they fit, else as many as fit.
    fn take_pass(&mut self) -> Result<(HostTensor, Vec<Share>)> {
        let (mut left, mut parts, mut shares) = (self.tiles_per_pass, Vec::new(), Vec::new());
        for progress in &mut self.waiting {
            let tiles = left.min(progress.tiles - progress.started);
            if tiles == 0 {
                break;
            }
            parts.push(progress.job.pixels.narrow(progress.started, tiles).map_err(|error| misshapen(&error))?);
            progress.began.get_or_insert_with(Instant::now);
            progress.started += tiles;
            left -= tiles;
            shares.push(Share { tiles });
        }
        Ok((concatenate(&parts)?, shares))
    }

    fn distribute(&mut self, rows: &HostTensor, shares: &[Share]) -> Result<()> {
        let tiles: usize = shares.iter().map(|share| share.tiles).sum();
        let patches = rows.shape().first().copied().unwrap_or(0) / tiles;
        let mut start = 0;
        for (share, progress) in shares.iter().zip(&mut self.waiting) {
            let part = rows.narrow(start, share.tiles * patches).map_err(|error| misshapen(&error))?;
            progress.rows.push(part);
            start += share.tiles * patches;
        }
        Ok(())
    }

    /// Answers the images at the front that are complete.
    fn answer(&mut self, pack: impl Fn(&HostTensor, &Plan) -> Result<HostTensor>) {
        while self.waiting.front().is_some_and(|progress| progress.started == progress.tiles) {
            let Some(Progress { job, began, rows, .. }) = self.waiting.pop_front() else { return };
            let began = began.unwrap_or(job.sent);
            let features = concatenate(&rows).and_then(|rows| pack(&rows, &job.plan));
            let features = features.map(|rows| Features {
                rows,
                queue: began.saturating_duration_since(job.sent),
                forward: began.elapsed(),
            });
            // The one who asked may have left.
            let _ = job.reply.send(features);
        }
    }

    /// Tells the first `images` images that their pass failed.
    fn fail(&mut self, images: usize, error: &Error) {
        for progress in self.waiting.drain(..images.min(self.waiting.len())) {
            let _ = progress.job.reply.send(Err(error.clone()));
        }
    }
}

/// Tensors below one another; no copy when there is one.
fn concatenate(parts: &[HostTensor]) -> Result<HostTensor> {
    match parts {
        [only] => Ok(only.clone()),
        [first, ..] => {
            let mut shape = first.shape().to_vec();
            shape[0] = parts.iter().map(|part| part.shape()[0]).sum();
            let data: Vec<u8> = parts.iter().flat_map(|part| part.data().iter().copied()).collect();
            HostTensor::new(first.dtype(), shape, data.into()).map_err(|error| misshapen(&error))
        }
        [] => Err(Error::new(ErrorKind::Internal, "BATCH_EMPTY", "a forward pass without tiles")),
    }
}

fn misshapen(error: &tessera_tensor::TensorError) -> Error {
    Error::new(ErrorKind::Internal, "BATCH_MISSHAPEN", error.to_string())
}

#[cfg(test)]
mod tests {
    use tessera_anyres::{Geometry, ImageSize};
    use tokio::sync::oneshot;

    use super::*;

    type Reply = oneshot::Receiver<Result<Features>>;

    /// An image of so many tiles whose pixels all say which tile they are of.
    fn job(image: f32, tiles: usize) -> (EncodeJob, Reply) {
        let pixels = (0..tiles).flat_map(|tile| [image * 100.0 + tile as f32; 3]).collect();
        let geometry = Geometry::new(vec![ImageSize { height: 4, width: 4 }], 4, 2).unwrap();
        let (reply, done) = oneshot::channel();
        let plan = geometry.plan(ImageSize { height: 4, width: 4 });
        let pixels = HostTensor::from_f32(vec![tiles, 3, 1, 1], pixels).unwrap();
        (EncodeJob { pixels, plan, sent: Instant::now(), reply }, done)
    }

    /// Two patches a tile, each the tile's own number.
    fn encode(pixels: &HostTensor) -> Result<HostTensor> {
        let values: Vec<f32> = pixels.to_f32().chunks(3).flat_map(|tile| [tile[0]; 2]).collect();
        Ok(HostTensor::from_f32(vec![values.len(), 1], values).unwrap())
    }

    fn run(batcher: &mut Batcher) -> usize {
        let mut tiles = 0;
        batcher.run(
            |pixels| {
                tiles = pixels.shape()[0];
                encode(pixels)
            },
            |rows, _| Ok(rows.clone()),
        );
        tiles
    }

    #[test]
    fn images_share_passes_and_span_them_without_mixing() {
        let mut batcher = Batcher::new(4);
        let mut replies = Vec::new();
        for (image, tiles) in [(1.0, 3), (2.0, 5), (3.0, 1)] {
            let (job, reply) = job(image, tiles);
            batcher.push(job);
            replies.push((image, tiles, reply));
        }
        assert!(batcher.is_full());
        assert_eq!([run(&mut batcher), run(&mut batcher), run(&mut batcher)], [4, 4, 1]);
        assert!(batcher.is_empty());
        for (image, tiles, mut reply) in replies {
            let rows = reply.try_recv().unwrap().unwrap().rows.to_f32();
            let expected: Vec<f32> = (0..tiles).flat_map(|tile| [image * 100.0 + tile as f32; 2]).collect();
            assert_eq!(rows, expected);
        }
    }

    #[test]
    fn an_image_that_nobody_waits_for_costs_no_pass() {
        let mut batcher = Batcher::new(4);
        let (left, reply) = job(1.0, 3);
        drop(reply);
        let (kept, mut reply) = job(2.0, 2);
        batcher.push(left);
        batcher.push(kept);
        assert_eq!(run(&mut batcher), 2);
        assert_eq!(reply.try_recv().unwrap().unwrap().rows.to_f32(), [200.0, 200.0, 201.0, 201.0]);
    }

    #[test]
    fn a_pass_that_fails_is_told_to_those_in_it_only() {
        let mut batcher = Batcher::new(2);
        let (first, mut lost) = job(1.0, 2);
        let (second, mut fine) = job(2.0, 1);
        batcher.push(first);
        batcher.push(second);
        let why = Error::new(ErrorKind::Internal, "MODEL_FAILED", "no");
        batcher.run(|_| Err(why.clone()), |rows, _| Ok(rows.clone()));
        assert_eq!(lost.try_recv().unwrap().unwrap_err(), why);
        run(&mut batcher);
        assert!(fine.try_recv().unwrap().is_ok());
    }
}
