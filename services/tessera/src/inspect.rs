//! `tessera inspect`: how images are cut, and the pixels that the tower would see.

use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};
use tessera_anyres::Plan;
use tessera_checkpoint::Checkpoint;
use tessera_image::{ImageSettings, Preprocessor};
use tessera_tensor::{DType, HostTensor};

use crate::cli::Inspect;
use crate::model::Model;
use crate::{files, output};

/// Inspects every image and prints what it found.
///
/// # Errors
/// Names the image that cannot be used.
pub(crate) fn run(inspect: &Inspect) -> anyhow::Result<()> {
    let model = Model::open(inspect.model.as_deref())?;
    let checkpoint = Checkpoint::open(model.dir())?;
    let settings = ImageSettings::default();
    let geometry = checkpoint.geometry();
    let preprocessor = Preprocessor::new(&checkpoint.processor.image, geometry.clone(), settings.resizer);
    let (mut plans, mut pixels) = (Vec::new(), Vec::new());
    for path in &inspect.images {
        let name = path.display();
        let decoded =
            tessera_image::decode(&files::read(path)?, &settings.decode()).with_context(|| name.to_string())?;
        plans.push(geometry.plan(decoded.size()));
        if inspect.pixels.is_some() {
            pixels.push(preprocessor.run(&decoded).with_context(|| name.to_string())?.pixels);
        }
    }
    if let Some(path) = &inspect.pixels {
        write_pixels(path, &pixels, &plans)?;
    }
    let channels = checkpoint.model.feature_channels();
    let found: Vec<Value> =
        inspect.images.iter().zip(&plans).map(|(path, plan)| describe(path, plan, channels)).collect();
    if inspect.json {
        return Ok(output::text(&format!("{:#}\n", Value::Array(found)))?);
    }
    for (path, plan) in inspect.images.iter().zip(&plans) {
        output::text(&sentence(path, plan, channels))?;
    }
    Ok(())
}

fn describe(path: &Path, plan: &Plan, channels: usize) -> Value {
    json!({
        "path": path.display().to_string(),
        "height": plan.image.height,
        "width": plan.image.width,
        "grid": { "height": plan.grid.height, "width": plan.grid.width },
        "resized": { "height": plan.resized.height, "width": plan.resized.width },
        "padding": {
            "top": plan.padding.top,
            "left": plan.padding.left,
            "bottom": plan.padding.bottom,
            "right": plan.padding.right,
        },
        "tiles": plan.tile_count(),
        "rows": plan.rows,
        "columns": plan.columns,
        "image_tokens": plan.image_tokens(),
        "feature_bytes": feature_bytes(plan, channels),
    })
}

fn sentence(path: &Path, plan: &Plan, channels: usize) -> String {
    format!(
        "{}: {} x {} pixels, grid {} x {}, {} tiles, {} x {} patches kept, {} image tokens, {} bytes of features\n",
        path.display(),
        plan.image.width,
        plan.image.height,
        plan.grid.width,
        plan.grid.height,
        plan.tile_count(),
        plan.columns,
        plan.rows,
        plan.image_tokens(),
        feature_bytes(plan, channels),
    )
}

/// As computed on the CPU: 32 bits.
fn feature_bytes(plan: &Plan, channels: usize) -> usize {
    plan.feature_rows() * channels * DType::F32.size_bytes()
}

/// Writes what the reference's processor returns for these images: `pixel_values`
/// `[images, most tiles, 3, side, side]`, filled up with zeros, and `image_sizes` `[images, 2]`, height first.
fn write_pixels(path: &Path, pixels: &[HostTensor], plans: &[Plan]) -> anyhow::Result<()> {
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    let most = pixels.iter().map(|tiles| tiles.shape()[0]).max().unwrap_or(0);
    let tile = pixels.first().map(|tiles| tiles.shape()[1..].to_vec()).unwrap_or_default();
    let bytes = most * tile.iter().product::<usize>() * DType::F32.size_bytes();
    let mut values = Vec::with_capacity(pixels.len() * bytes);
    for (index, tiles) in pixels.iter().enumerate() {
        values.extend_from_slice(tiles.data());
        values.resize((index + 1) * bytes, 0);
    }
    let sizes = plans.iter().flat_map(|plan| [plan.image.height, plan.image.width]);
    let sizes: Vec<u8> = sizes.flat_map(|side| i64::from(side).to_le_bytes()).collect();

    let shape = [vec![pixels.len(), most], tile].concat();
    let tensors = [
        ("pixel_values", TensorView::new(Dtype::F32, shape, &values)?),
        ("image_sizes", TensorView::new(Dtype::I64, vec![plans.len(), 2], &sizes)?),
    ];
    let file = safetensors::serialize(tensors, None)?;
    std::fs::write(path, file).with_context(|| format!("cannot write {}", path.display()))
}
