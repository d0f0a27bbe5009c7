// How a picture is cut, drawn over the picture itself: the base view, and the tiles of its grid.

import { bytes, count, el, svg } from "./dom.js";

let drawn = 0;

/** The drawing and its numbers. */
export function mosaic(picture) {
  const { plan } = picture;
  const views = el("div", { class: "views" }, baseView(picture), gridView(picture));
  return el("div", { class: "mosaic" }, views, legend(plan), numbers(picture));
}

/** A picture at a place in a drawing of `whole` pixels, under an overlay. */
function view(picture, { name, title, whole, place, share, overlay }) {
  const image = el("img", { src: picture.url, alt: "This browser does not draw this file", class: picture.plan.is_upright ? "" : "as-stored" });
  const canvas = el("div", { class: "canvas" }, image, overlay);
  canvas.style.aspectRatio = `${whole.width} / ${whole.height}`;
  for (const side of ["left", "top", "width", "height"]) {
    const of = side === "left" || side === "width" ? whole.width : whole.height;
    image.style[side] = `${(100 * place[side]) / of}%`;
  }
  const figure = el("figure", { class: name }, canvas, el("figcaption", {}, title));
  // Both views at one scale: a tile here is as large as a tile there, and none is higher than there is room for.
  figure.style.width = `min(${share.width}, ${share.height})`;
  return figure;
}

function baseView(picture) {
  const { tile, tiles_across, tiles_down } = picture.plan;
  const whole = { width: tile, height: tile };
  const overlay = svg(
    "svg",
    { viewBox: `0 0 ${tile} ${tile}`, role: "img", "aria-label": "Base view: the whole picture in one tile" },
    ...border(0, 0, tile),
    number(0, 0, 0, tile, tiles_across),
  );
  const share = { width: `calc((100% - 1rem) / ${tiles_across + 1})`, height: `${21 / tiles_down}rem` };
  return view(picture, { name: "base", title: "Base view", whole, place: { left: 0, top: 0, ...whole }, share, overlay });
}

function gridView(picture) {
  const { plan } = picture;
  const { grid, padding, resized, tile, tiles_across: across, tiles_down: down } = plan;
  const title = `${across} × ${down} ${across * down === 1 ? "tile" : "tiles"} of ${tile} pixels`;
  const share = { width: `calc((100% - 1rem) * ${across / (across + 1)})`, height: `${(21 * across) / down}rem` };
  const place = { left: padding.left, top: padding.top, ...resized };
  return view(picture, { name: "grid", title, whole: grid, place, share, overlay: overlay(plan, title) });
}

/** Padding, what un-padding removes, patches, tiles. */
function overlay(plan, title) {
  const { grid, padding, resized, tile, tiles_across: across, tiles_down: down } = plan;
  const patch = tile / plan.patches_per_side;
  const kept = {
    x: plan.first_column * patch,
    y: plan.first_row * patch,
    width: plan.columns * patch,
    height: plan.rows * patch,
  };
  const shown = { x: padding.left, y: padding.top, ...resized };
  const [removed, patches] = [`removed-${drawn}`, `patches-${drawn}`];
  drawn += 1;
  const hatch = tile / 14;
  const stripe = { id: removed, width: hatch, height: hatch, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" };
  const raster = { id: patches, x: kept.x, y: kept.y, width: patch, height: patch, patternUnits: "userSpaceOnUse" };
  const tiles = [];
  for (let row = 0; row < down; row += 1) {
    for (let column = 0; column < across; column += 1) {
      const [x, y] = [column * tile, row * tile];
      tiles.push(...border(x, y, tile), number(1 + row * across + column, x, y, tile, across));
    }
  }
  return svg(
    "svg",
    { viewBox: `0 0 ${grid.width} ${grid.height}`, role: "img", "aria-label": `Grid: ${title}` },
    svg(
      "defs",
      {},
      svg("pattern", stripe, svg("rect", { class: "stripe", width: hatch / 3, height: hatch })),
      svg("pattern", raster, svg("path", { class: "raster", d: `M0 ${patch}V0H${patch}` })),
    ),
    ...around(shown, grid).map((strip) => svg("rect", { class: "padding", ...strip })),
    ...around(kept, grid).map((strip) => svg("rect", { class: "removed", fill: `url(#${removed})`, ...strip })),
    svg("rect", { class: "patches", fill: `url(#${patches})`, ...kept }),
    ...tiles,
    svg("rect", { class: "kept", ...kept }),
  );
}

/** The border of a tile, to be seen on any picture. */
const border = (x, y, side) =>
  ["halo", "tile"].map((name) => svg("rect", { class: name, x, y, width: side, height: side }));

/** The strips of the whole that lie around a rectangle in it. */
function around({ x, y, width, height }, whole) {
  const [right, below] = [whole.width - x - width, whole.height - y - height];
  return [
    { x: 0, y: 0, width: whole.width, height: y },
    { x: 0, y: y + height, width: whole.width, height: below },
    { x: 0, y, width: x, height },
    { x: x + width, y, width: right, height },
  ].filter((strip) => strip.width > 0 && strip.height > 0);
}

/** The number of a tile: 0 is the base view, then row by row. */
function number(index, x, y, tile, across) {
  const side = tile * (0.07 + 0.03 * across);
  const [middle, size] = [side / 2, side * 0.62];
  return svg(
    "g",
    { class: "number", transform: `translate(${x} ${y})` },
    svg("rect", { width: side, height: side }),
    svg("text", { x: middle, y: middle, "font-size": size, dy: "0.36em" }, String(index)),
  );
}

function legend({ padding }) {
  const entry = (name, text) => el("li", {}, el("span", { class: `key ${name}` }), text);
  const is_padded = Object.values(padding).some((side) => side > 0);
  return el(
    "ul",
    { class: "legend" },
    entry("tile", "Tile"),
    entry("kept", "Features kept"),
    ...(is_padded ? [entry("padding", "Padding"), entry("removed", "Removed by un-padding")] : []),
  );
}

function numbers(picture) {
  const { plan, file } = picture;
  const size = ({ width, height }) => `${count(width)} × ${count(height)}`;
  const rows = [
    ["Image tokens", "image-tokens", count(plan.image_tokens)],
    ["Tiles", "tiles", `${count(plan.tiles)} (${plan.tiles_across} × ${plan.tiles_down} and the base view)`],
    ["Rows × columns", "features", `${count(plan.rows)} × ${count(plan.columns)} features of the grid`],
    ["Picture", "size", `${size(plan)} pixels, ${plan.format}, ${bytes(file.size)}`],
    ["In the grid", "resized", `${size(plan.resized)} of ${size(plan.grid)} pixels`],
  ];
  const entry = ([term, name, text]) => [el("dt", {}, term), el("dd", { "data-number": name }, text)];
  return el("dl", { class: "numbers" }, ...rows.flatMap(entry));
}
