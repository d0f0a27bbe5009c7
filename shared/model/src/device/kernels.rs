//! The kernels, on candle's tensors: launched where these are a GPU's, computed by their references on the CPU.
//!
//! All tensors are contiguous and, where nothing else is said, of the device's compute type.

use std::num::NonZeroU32;

use candle_core::{DType as CandleType, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;
use tessera_checkpoint::Activation;
use tessera_kernels::{
    Activation as Function, AttendShape, CopyShape, Element, Kind, RopeShape, UnfoldShape,
    launch::{self, LaunchError},
    reference::{self, Angles, Attend, Parts, PartsMut, RopeCache},
};

use super::{
    Device,
    access::{Number, address, read, write},
};
use crate::ModelError;

/// What a kernel is given.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "none but a GPU looks at it"))]
pub(crate) enum Argument<'a> {
    /// Where a tensor begins.
    Tensor(&'a Tensor),
    /// Where a tensor begins, or null.
    Maybe(Option<&'a Tensor>),
    /// An extent.
    Number(usize),
    /// A factor.
    Real(f32),
}

use Argument::{Maybe, Number as Extent, Real, Tensor as Of};

/// Does something with the type of the numbers that a device computes in.
macro_rules! by_kind {
    ($device:expr, $T:ident => $body:expr) => {
        match $device.kind() {
            Kind::F32 => {
                type $T = f32;
                $body
            }
            Kind::F16 => {
                type $T = f16;
                $body
            }
            Kind::Bf16 => {
                type $T = bf16;
                $body
            }
        }
    };
}

pub(super) use by_kind;

/// Returns `x` times the transposed weights. On a GPU by its library; the CPU's sums go over the inputs in an order that
/// nothing but their number changes.
///
/// x: `[rows, inputs]`; weight: `[outputs, inputs]`; result: `[rows, outputs]`
pub(crate) fn product(device: &Device, x: &Tensor, weight: &Tensor) -> Result<Tensor, ModelError> {
    if device.gpu().is_some() {
        return Ok(x.matmul(&weight.t()?)?);
    }
    let ((rows, inputs), (outputs, _)) = (x.dims2()?, weight.dims2()?);
    let out = device.room(&[rows, outputs])?;
    by_kind!(device, T => {
        let (x, weight) = (read::<T>(x)?, read::<T>(weight)?);
        write::<T>(&out, |out| plain_product(out, &x, &weight, inputs))
    })?;
    Ok(out)
}

/// Returns rows from anywhere on the device.
///
/// sources: `[2 * rows]`, u32: the halves, the lower one first, of the addresses of rows of `width` numbers; origins: the tensors
/// that hold these; result: `[rows, width]`
pub(crate) fn gather(
    device: &Device,
    sources: &Tensor,
    origins: &[&Tensor],
    width: usize,
) -> Result<Tensor, ModelError> {
    let rows = sources.elem_count() / 2;
    let out = device.room(&[rows, width])?;
    match device.gpu() {
        Some(gpu) => {
            let kernel = launch::gather(device.kind(), rows, width)?;
            gpu.launch(kernel, &[Of(&out), Of(sources), Extent(rows), Extent(width)])
        }
        None => by_kind!(device, T => {
            let origins = origins.iter().map(|origin| Ok((address(origin)?, read::<T>(origin)?)));
            let origins = origins.collect::<Result<Vec<_>, ModelError>>()?;
            let sources = read::<u32>(sources)?;
            let find = |halves: &[u32; 2]| {
                let source = u64::from(halves[0]) | u64::from(halves[1]) << 32;
                let rows = origins.iter().filter_map(|(start, numbers)| row_at::<T>(source.checked_sub(*start)?, numbers, width));
                rows.into_iter().next().ok_or(ModelError::Pool)
            };
            let rows = sources.as_chunks().0.iter().map(find).collect::<Result<Vec<_>, _>>()?;
            write::<T>(&out, |out| reference::gather(out, &rows, width))
        }),
    }?;
    Ok(out)
}

/// x: `[rows, width]`, and so the result; weight: `[width]`
pub(crate) fn rms_norm(device: &Device, x: &Tensor, weight: &Tensor, epsilon: f64) -> Result<Tensor, ModelError> {
    let (rows, width) = x.dims2()?;
    let (out, epsilon) = (device.room(&[rows, width])?, epsilon as f32);
    match device.gpu() {
        Some(gpu) => {
            let kernel = launch::rms_norm(device.kind(), rows, width)?;
            gpu.launch(kernel, &[Of(&out), Of(x), Of(weight), Extent(rows), Extent(width), Real(epsilon)])
        }
        None => by_kind!(device, T => {
            let (x, weight) = (read::<T>(x)?, read::<T>(weight)?);
            write::<T>(&out, |out| reference::rms_norm(out, &x, &weight, epsilon))
        }),
    }?;
    Ok(out)
}

/// x: `[rows, width]`, and so the result; weight, bias: `[width]`
pub(crate) fn layer_norm(
    device: &Device,
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    epsilon: f64,
) -> Result<Tensor, ModelError> {
    let (rows, width) = x.dims2()?;
    let (out, epsilon) = (device.room(&[rows, width])?, epsilon as f32);
    match device.gpu() {
        Some(gpu) => {
            let kernel = launch::layer_norm(device.kind(), rows, width)?;
            let extents = [Extent(rows), Extent(width), Real(epsilon)];
            let [rows, width, epsilon] = extents;
            gpu.launch(kernel, &[Of(&out), Of(x), Of(weight), Of(bias), rows, width, epsilon])
        }
        None => by_kind!(device, T => {
            let (x, weight, bias) = (read::<T>(x)?, read::<T>(weight)?, read::<T>(bias)?);
            write::<T>(&out, |out| reference::layer_norm(out, &x, &weight, &bias, epsilon))
        }),
    }?;
    Ok(out)
}

/// Makes `x` the activation of itself and the bias, and adds the residual.
///
/// x, residual: `[rows, width]`; bias: `[width]`
pub(crate) fn bias_act(
    device: &Device,
    x: &Tensor,
    bias: Option<&Tensor>,
    activation: Option<Activation>,
    residual: Option<&Tensor>,
) -> Result<(), ModelError> {
    let (rows, width) = x.dims2()?;
    let function = activation.map_or(Function::None, function);
    if let Some(gpu) = device.gpu() {
        let kernel = launch::bias_act(device.kind(), rows, width)?;
        let code = Extent(function.code() as usize);
        return gpu.launch(kernel, &[Of(x), Maybe(bias), Maybe(residual), Extent(rows), Extent(width), code]);
    }
    by_kind!(device, T => {
        let bias = bias.map(read::<T>).transpose()?;
        let residual = residual.map(read::<T>).transpose()?;
        write::<T>(x, |x| reference::bias_act(x, width, bias.as_deref(), residual.as_deref(), function))
    })
}

/// gate_up: `[rows, 2 * width]`, the gate in front; result: `[rows, width]`
pub(crate) fn silu_mul(device: &Device, gate_up: &Tensor) -> Result<Tensor, ModelError> {
    let (rows, both) = gate_up.dims2()?;
    let width = both / 2;
    let out = device.room(&[rows, width])?;
    match device.gpu() {
        Some(gpu) => {
            let kernel = launch::silu_mul(device.kind(), rows, width)?;
            gpu.launch(kernel, &[Of(&out), Of(gate_up), Extent(rows), Extent(width)])
        }
        None => by_kind!(device, T => {
            let gate_up = read::<T>(gate_up)?;
            write::<T>(&out, |out| reference::silu_mul(out, &gate_up, width))
        }),
    }?;
    Ok(out)
}

/// Turns the queries of `qkv` where they stand, and writes turned keys, and values, to their slots.
///
/// qkv: `[rows, (heads + 2 * kv_heads) * head_dim]`; pages: `[2, blocks, 32, kv_heads, head_dim]`; cos, sin: f32,
/// `[max_positions, head_dim / 2]`; positions, slots: u32, `[rows]`
pub(crate) fn rope_cache(
    device: &Device,
    qkv: &Tensor,
    pages: &Tensor,
    (cos, sin): (&Tensor, &Tensor),
    (positions, slots): (&Tensor, &Tensor),
    shape: RopeShape,
) -> Result<(), ModelError> {
    if let Some(gpu) = device.gpu() {
        let kernel = launch::rope_cache(device.kind(), shape)?;
        let (keys, values) = (pages.narrow(0, 0, 1)?, pages.narrow(0, 1, 1)?);
        let RopeShape { rows, heads, kv_heads, head_dim } = shape;
        let tensors = [qkv, &keys, &values, cos, sin, positions, slots].map(Of);
        let extents = [rows, heads, kv_heads, head_dim].map(Extent);
        return gpu.launch(kernel, &tensors.into_iter().chain(extents).collect::<Vec<_>>());
    }
    by_kind!(device, T => {
        let (cos, sin) = (read::<f32>(cos)?, read::<f32>(sin)?);
        let (positions, slots) = (read::<u32>(positions)?, read::<u32>(slots)?);
        let angles = Some(Angles { cos: &cos, sin: &sin });
        let mut written = Ok(());
        write::<T>(qkv, |qkv| {
            written = write::<T>(pages, |pages| {
                let (keys, values) = pages.split_at_mut(pages.len() / 2);
                let (positions, slots) = (&*positions, &*slots);
                reference::rope_cache(RopeCache { qkv, keys, values, angles, positions, slots, shape });
            });
        })?;
        written
    })
}

/// What [`paged_attend`] takes.
pub(crate) struct Paged<'a> {
    /// `[rows, stride]`, each row beginning with its queries.
    pub(crate) queries: &'a Tensor,
    /// `[2, blocks, 32, kv_heads, head_dim]`
    pub(crate) pages: &'a Tensor,
    /// u32, `[tables, table_width]`
    pub(crate) tables: &'a Tensor,
    /// u32, `[rows]`
    pub(crate) table_of: &'a Tensor,
    /// u32, `[rows]`: how many positions a row sees, its own included; 0 for one that is padding.
    pub(crate) lengths: &'a Tensor,
    /// If given, only the last so many of them.
    pub(crate) window: Option<usize>,
    pub(crate) shape: AttendShape,
}

/// Lets rows attend to the positions that their tables name. A row gives the same whoever is beside it, and however many
/// parts there is room for; one that is padding gives zeros.
///
/// result: `[rows, heads * head_dim]`
pub(crate) fn paged_attend(device: &Device, input: &Paged<'_>) -> Result<Tensor, ModelError> {
    let Paged { queries, pages, tables, table_of, lengths, window, shape } = *input;
    let AttendShape { rows, heads, kv_heads, head_dim, table_width, splits } = shape;
    let (merge, stride) = (shape.merge(), queries.dims2()?.1);
    let scale = (1.0 / (head_dim as f64).sqrt()) as f32;
    let out = device.room(&[rows, heads * head_dim])?;
    let Some(gpu) = device.gpu() else {
        by_kind!(device, T => plain_attend::<T>(&out, input, stride, scale))?;
        return Ok(out);
    };
    let part = |count: usize| device.room_of(&[count], CandleType::F32);
    let (partials, maxima, sums) = (part(merge.partials())?, part(merge.parts())?, part(merge.parts())?);
    let (keys, values) = (pages.narrow(0, 0, 1)?, pages.narrow(0, 1, 1)?);
    let places = [tables, table_of, lengths].map(Of).into_iter();
    let arguments = [Of(queries), Extent(stride), Of(&keys), Of(&values)].into_iter().chain(places);
    let arguments = arguments.chain([Extent(window.unwrap_or(0)), Real(scale)]);
    let arguments = arguments.chain([rows, heads, kv_heads, head_dim, table_width].map(Extent));
    let arguments = arguments.chain([&partials, &maxima, &sums].map(Of)).chain([Extent(splits)]);
    let arguments: Vec<_> = arguments.collect();
    gpu.launch(launch::paged_attend(device.kind(), shape)?, &arguments)?;
    let tensors = [&out, &partials, &maxima, &sums].map(Of);
    let extents = [rows, heads, head_dim, splits].map(Extent);
    let arguments: Vec<_> = tensors.into_iter().chain(extents).collect();
    gpu.launch(launch::paged_merge(device.kind(), merge)?, &arguments)?;
    Ok(out)
}

/// Copies blocks in all layers. None is written by two pairs, or by one and read by another.
///
/// pool: `[layers, 2, blocks, 32, kv_heads, head_dim]`
pub(crate) fn copy_blocks(device: &Device, pool: &Tensor, pairs: &[[u32; 2]]) -> Result<(), ModelError> {
    let [layers, _, blocks, positions, kv_heads, head_dim] = *pool.dims() else { return Err(ModelError::Pool) };
    let shape = CopyShape { pairs: pairs.len(), layers, blocks, block_len: positions * kv_heads * head_dim };
    match device.gpu() {
        Some(gpu) => {
            let kernel = launch::copy_blocks(device.kind(), shape)?;
            let pairs = device.indices(pairs.as_flattened())?;
            let CopyShape { pairs: count, layers, blocks, block_len } = shape;
            let extents = [count, layers, blocks, block_len].map(Extent);
            gpu.launch(kernel, &[Of(pool), Of(&pairs)].into_iter().chain(extents).collect::<Vec<_>>())
        }
        None => by_kind!(device, T => write::<T>(pool, |pool| reference::copy_blocks(pool, pairs, shape))),
    }
}

/// Returns the patches of tiles.
///
/// pixels: f32, `[tiles, channels, side, side]`; result: `[tiles * patches, channels * patch * patch]`
pub(crate) fn unfold(device: &Device, pixels: &Tensor, patch: usize) -> Result<Tensor, ModelError> {
    let (tiles, channels, side, _) = pixels.dims4()?;
    let shape = UnfoldShape { tiles, channels, side, patch };
    let out = device.room(&[shape.rows(), shape.width()])?;
    match device.gpu() {
        Some(gpu) => {
            let extents = [tiles, channels, side, patch].map(Extent);
            let arguments: Vec<_> = [Of(&out), Of(pixels)].into_iter().chain(extents).collect();
            gpu.launch(launch::unfold(device.kind(), shape)?, &arguments)
        }
        None => by_kind!(device, T => {
            let pixels = read::<f32>(pixels)?;
            write::<T>(&out, |out| reference::unfold(out, &pixels, shape))
        }),
    }?;
    Ok(out)
}

/// What [`embed_tiles`] puts together.
pub(crate) struct EmbedTiles<'a> {
    /// `[tiles * patches, width]`
    pub(crate) patches: &'a Tensor,
    /// `[width]`
    pub(crate) bias: Option<&'a Tensor>,
    /// `[1, width]`: stands in front of a tile's patches.
    pub(crate) class: Option<&'a Tensor>,
    /// `[positions, width]`
    pub(crate) table: &'a Tensor,
    pub(crate) tiles: usize,
}

/// Returns the rows that a tower begins with: `[tiles * positions, width]`.
pub(crate) fn embed_tiles(device: &Device, input: &EmbedTiles<'_>) -> Result<Tensor, ModelError> {
    let EmbedTiles { patches, bias, class, table, tiles } = *input;
    let (positions, width) = table.dims2()?;
    let out = device.room(&[tiles * positions, width])?;
    match device.gpu() {
        Some(gpu) => {
            let tensors = [Of(&out), Of(patches), Maybe(bias), Maybe(class), Of(table)];
            let extents = [tiles, positions, width].map(Extent);
            let kernel = launch::embed_tiles(device.kind(), tiles, positions, width)?;
            gpu.launch(kernel, &tensors.into_iter().chain(extents).collect::<Vec<_>>())
        }
        None => by_kind!(device, T => {
            let (patches, table) = (read::<T>(patches)?, read::<T>(table)?);
            let (bias, class) = (bias.map(read::<T>).transpose()?, class.map(read::<T>).transpose()?);
            let (bias, class) = (bias.as_deref(), class.as_deref());
            let input = reference::EmbedTiles { patches: &patches, bias, class, table: &table, width };
            write::<T>(&out, |out| reference::embed_tiles(out, input))
        }),
    }?;
    Ok(out)
}

/// The kernels' name of an activation.
fn function(activation: Activation) -> Function {
    match activation {
        Activation::Gelu => Function::Gelu,
        Activation::GeluTanh => Function::GeluTanh,
        Activation::QuickGelu => Function::QuickGelu,
    }
}

/// [`paged_attend`] on the CPU.
fn plain_attend<T: Element + Number>(
    out: &Tensor,
    input: &Paged<'_>,
    stride: usize,
    scale: f32,
) -> Result<(), ModelError> {
    let Paged { queries, pages, tables, table_of, lengths, window, shape } = *input;
    let (queries, pages) = (read::<T>(queries)?, read::<T>(pages)?);
    let (tables, table_of, lengths) = (read::<u32>(tables)?, read::<u32>(table_of)?, read::<u32>(lengths)?);
    let (keys, values) = pages.split_at(pages.len() / 2);
    let window = window.and_then(|window| NonZeroU32::new(u32::try_from(window).unwrap_or(u32::MAX)));
    let (queries, tables, table_of, lengths) = (&*queries, &*tables, &*table_of, &*lengths);
    let input = Attend { queries, stride, keys, values, tables, table_of, lengths, window, scale, shape };
    let merge = shape.merge();
    let (mut partials, mut maxima, mut sums) =
        (vec![0.0; merge.partials()], vec![0.0; merge.parts()], vec![0.0; merge.parts()]);
    let parts = PartsMut { partials: &mut partials, maxima: &mut maxima, sums: &mut sums };
    reference::paged_attend(input, parts);
    let parts = Parts { partials: &partials, maxima: &maxima, sums: &sums };
    write::<T>(out, |out| reference::paged_merge(out, parts, merge))
}

/// The row that begins so many bytes behind the first of these numbers, if it is there.
fn row_at<T>(bytes: u64, numbers: &[T], width: usize) -> Option<&[T]> {
    let start = usize::try_from(bytes).ok()? / size_of::<T>();
    numbers.get(start..start.checked_add(width)?)
}

/// Sums in f32, in lanes that are added up at the end: in the same order for every row.
fn plain_product<T: Element + Number>(out: &mut [T], x: &[T], weight: &[T], inputs: usize) {
    const LANES: usize = 8;
    let wide = |numbers: &[T]| numbers.iter().map(|number| Element::to_f32(*number)).collect::<Vec<f32>>();
    let (x, weight) = (wide(x), wide(weight));
    let outputs = weight.len() / inputs;
    let dot = |x: &[f32], weight: &[f32]| {
        let mut lanes = [0.0; LANES];
        let ((x, x_rest), (weight, weight_rest)) = (x.as_chunks::<LANES>(), weight.as_chunks::<LANES>());
        for (x, weight) in x.iter().zip(weight) {
            lanes.iter_mut().zip(x).zip(weight).for_each(|((lane, x), weight)| *lane += x * weight);
        }
        let rest: f32 = x_rest.iter().zip(weight_rest).map(|(x, weight)| x * weight).sum();
        lanes.iter().sum::<f32>() + rest
    };
    out.par_chunks_exact_mut(outputs).zip(x.par_chunks_exact(inputs)).for_each(|(out, x)| {
        let sums = weight.chunks_exact(inputs).map(|weight| <T as Element>::from_f32(dot(x, weight)));
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum);
    });
}

impl From<LaunchError> for ModelError {
    fn from(error: LaunchError) -> Self {
        Self::Compute(Box::new(error))
    }
}
