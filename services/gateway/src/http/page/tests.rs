//! What browsers get of a gateway in front of nobody.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::request::Builder;
use axum::http::{Method, Request, StatusCode};
use tempfile::TempDir;
use tessera_api::{language, vision};
use tessera_checkpoint::Checkpoint;
use tessera_config::ByteSize;
use tessera_rpc::{ClientTls, Tasks};
use tessera_testkit::{demo_model_dir, fixtures_dir};
use tower::ServiceExt;

use super::assets::ASSETS;
use super::*;
use crate::http::{HttpSettings, routes};
use crate::prepare::Preparer;
use crate::service::assemble;
use crate::settings::{LimitSettings, Settings};

/// Of `printf %s open-sesame | sha256sum`.
const HASH: &str = "d7ecdf25eaf3deba0f2628771dbdd22d4138ab6cf38f91ed02a2ca0dec7c8ab7";

/// A gateway of the demonstration model, whose workers are away.
fn gateway(settings: &Settings) -> Router {
    let checkpoint = Checkpoint::open(&demo_model_dir()).unwrap();
    let preparer = Arc::new(Preparer::open(&checkpoint, settings).unwrap());
    let tasks = Tasks::default();
    let front = assemble(settings, preparer, checkpoint.model.image_token_id, ClientTls::default(), &tasks).unwrap();
    routes(&Arc::new(front), &settings.http)
}

fn with_the_page() -> Settings {
    let (vision, language) = (vec!["http://127.0.0.1:9".into()], vec!["http://127.0.0.1:10".into()]);
    Settings { http: HttpSettings { page: true, ..HttpSettings::default() }, vision, language, ..Settings::default() }
}

/// One that wants a token.
fn with_a_token() -> (Settings, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = with_the_page();
    settings.auth.tokens = folder.path().join("tokens");
    std::fs::write(&settings.auth.tokens, format!("{HASH} acme\n")).unwrap();
    (settings, folder)
}

async fn answer(gateway: &Router, request: Builder, body: impl Into<Body>) -> Response {
    gateway.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap()
}

async fn get_path(gateway: &Router, path: &str) -> Response {
    answer(gateway, Request::get(path), Body::empty()).await
}

async fn bytes(response: Response) -> Vec<u8> {
    to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec()
}

async fn json(response: Response) -> Value {
    serde_json::from_slice(&bytes(response).await).unwrap()
}

async fn inspect(gateway: &Router, file: Vec<u8>) -> (StatusCode, Value) {
    let response = answer(gateway, Request::post("/tessera/inspect"), file).await;
    (response.status(), json(response).await)
}

fn reason((status, answer): &(StatusCode, Value)) -> (u16, &str) {
    (status.as_u16(), answer["error"]["code"].as_str().unwrap())
}

/// The header of a bitmap of this size, which is all that is read of it.
fn bitmap(width: u32, height: u32) -> Vec<u8> {
    let mut file = b"BM".to_vec();
    file.extend([0, 0, 54, 40].iter().flat_map(|field: &u32| field.to_le_bytes()));
    file.extend([width, height].iter().flat_map(|side| side.to_le_bytes()));
    file.extend([1_u16, 24].iter().flat_map(|field| field.to_le_bytes()));
    file.extend([0; 24]);
    file
}

#[tokio::test]
async fn each_file_says_what_it_is_and_lets_nothing_else_in() {
    let gateway = gateway(&with_the_page());
    for asset in ASSETS {
        let response = get_path(&gateway, asset.path).await;
        assert_eq!(response.status(), StatusCode::OK, "{}", asset.path);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), asset.kind);
        assert_eq!(
            (header("x-content-type-options").as_str(), header("cache-control").as_str()),
            ("nosniff", "no-cache")
        );
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        assert_eq!(bytes(response).await, asset.bytes);
    }
    let wrong = answer(&gateway, Request::builder().method(Method::POST).uri("/"), Body::empty()).await;
    assert_eq!(wrong.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_file_that_the_browser_has_is_not_sent_again() {
    let gateway = gateway(&with_the_page());
    let tag = get_path(&gateway, "/").await.headers()["etag"].clone();
    let ask = |known: String| answer(&gateway, Request::get("/").header("if-none-match", known), Body::empty());
    let tag = tag.to_str().unwrap();
    for known in [tag.to_owned(), format!("W/{tag}"), format!("\"a\", {tag}"), "*".to_owned()] {
        let response = ask(known.clone()).await;
        assert_eq!((response.status(), response.headers()["etag"].to_str().unwrap()), (StatusCode::NOT_MODIFIED, tag));
        assert!(bytes(response).await.is_empty(), "{known}");
    }
    assert_eq!(ask("\"another\"".into()).await.status(), StatusCode::OK);
    let other = get_path(&gateway, "/tessera/page.css").await.headers()["etag"].clone();
    assert_ne!(other.to_str().unwrap(), tag);
}

#[test]
fn the_page_is_small_and_holds_no_script_no_style_and_no_other_host() {
    let size: usize = ASSETS.iter().map(|asset| asset.bytes.len()).sum();
    assert!(size < 60_000, "{size} bytes");
    for asset in ASSETS {
        let text = std::str::from_utf8(asset.bytes).unwrap();
        let foreign = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!foreign.contains("http://") && !foreign.contains("https://"), "{}", asset.path);
        assert!(
            !text.contains("innerHTML") && !text.contains(" style=\"") && !text.contains("eval("),
            "{}",
            asset.path
        );
        // All that one file names of the others is there.
        let names =
            text.split(['"', '\'']).filter_map(|word| word.strip_prefix("./").or(word.strip_prefix("/tessera/")));
        for name in names.filter(|name| name.contains('.')) {
            assert!(ASSETS.iter().any(|other| other.path == format!("/tessera/{name}")), "{}: {name}", asset.path);
        }
    }
}

#[tokio::test]
async fn without_the_setting_nothing_of_it_is_served() {
    let gateway = gateway(&Settings { http: HttpSettings::default(), ..with_the_page() });
    for path in ["/", "/tessera/page.css", "/tessera/about", "/tessera/pools", "/tessera/inspect"] {
        assert_eq!(get_path(&gateway, path).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn a_picture_is_cut_as_its_size_says() {
    let gateway = gateway(&with_the_page());
    let geometry = Checkpoint::open(&demo_model_dir()).unwrap().geometry();
    // Square, wide, tall, and so wide that no row of its grid is left.
    for (width, height) in [(96, 96), (640, 427), (360, 512), (1000, 300), (300, 1000), (8000, 2)] {
        let (status, found) = inspect(&gateway, bitmap(width, height)).await;
        assert_eq!(status, StatusCode::OK, "{found}");
        let plan = geometry.plan(tessera_anyres::ImageSize::new(height, width));
        let numbers =
            ["tiles", "rows", "columns", "image_tokens", "feature_rows"].map(|name| found[name].as_u64().unwrap());
        let expected =
            [plan.tile_count(), plan.rows as usize, plan.columns as usize, plan.image_tokens(), plan.feature_rows()];
        assert_eq!(numbers, expected.map(|number| number as u64), "{width} x {height}");
        let size = |name: &str| (found[name]["width"].as_u64(), found[name]["height"].as_u64());
        let of = |size: tessera_anyres::ImageSize| (Some(size.width.into()), Some(size.height.into()));
        assert_eq!((size("grid"), size("resized")), (of(plan.grid), of(plan.resized)));
        let padding = &found["padding"];
        let sum = |one: &str, other: &str| padding[one].as_u64().unwrap() + padding[other].as_u64().unwrap();
        assert_eq!(sum("left", "right") + u64::from(plan.resized.width), u64::from(plan.grid.width));
        assert_eq!(sum("top", "bottom") + u64::from(plan.resized.height), u64::from(plan.grid.height));
    }
}

#[tokio::test]
async fn orientation_is_followed_where_decoding_follows_it() {
    let turned = std::fs::read(fixtures_dir().join("photos/rotated.jpg")).unwrap();
    let (_, upright) = inspect(&gateway(&with_the_page()), turned.clone()).await;
    let mut settings = with_the_page();
    settings.image.source = tessera_image::Source::Opened;
    let (_, stored) = inspect(&gateway(&settings), turned).await;
    assert_eq!((&upright["is_upright"], &stored["is_upright"]), (&json!(true), &json!(false)));
    assert_eq!((&upright["width"], &upright["height"]), (&stored["height"], &stored["width"]));
}

#[tokio::test]
async fn in_constant_shape_a_picture_lies_in_the_largest_grid() {
    let mut settings = with_the_page();
    let constant = crate::TenantSettings { constant_shape: true, ..Default::default() };
    settings.tenants.insert(String::new(), constant);
    let gateway = gateway(&settings);
    let (_, wide) = inspect(&gateway, bitmap(300, 100)).await;
    let (_, tall) = inspect(&gateway, bitmap(100, 300)).await;
    assert_eq!((&wide["image_tokens"], &wide["grid"]), (&tall["image_tokens"], &tall["grid"]));
    assert_eq!(
        (&wide["width"], &wide["padding"]["top"], &tall["padding"]["top"]),
        (&json!(300), &json!(64), &json!(0))
    );
}

#[tokio::test]
async fn what_is_no_picture_or_too_long_is_said() {
    let limits = LimitSettings { request: ByteSize::bytes(4096), ..LimitSettings::default() };
    let gateway = gateway(&Settings { limits, ..with_the_page() });
    let text = inspect(&gateway, b"a text".to_vec()).await;
    assert_eq!(reason(&text), (400, "IMAGE_FORMAT_UNKNOWN"));
    assert_eq!(text.1["error"]["param"], "image");
    assert_eq!(reason(&inspect(&gateway, Vec::new()).await).0, 400);
    let long = inspect(&gateway, vec![0; 4097]).await;
    assert_eq!(reason(&long), (400, "MESSAGE_TOO_LARGE"));
    assert!(long.1["error"]["message"].as_str().unwrap().contains("longer than 4096 bytes"), "{}", long.1);
    let just = inspect(&gateway, [bitmap(30, 30), vec![0; 4096 - 54]].concat()).await;
    assert_eq!(just.0, StatusCode::OK, "{}", just.1);
}

#[tokio::test]
async fn the_page_is_for_everybody_and_what_it_asks_for_is_not() {
    let (settings, _folder) = with_a_token();
    let gateway = gateway(&settings);
    assert_eq!(get_path(&gateway, "/").await.status(), StatusCode::OK);
    let with = |request: Builder| request.header("authorization", "Bearer open-sesame");
    for path in ["/tessera/about", "/tessera/pools"] {
        let refused = get_path(&gateway, path).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(json(refused).await["error"]["code"], "TOKEN_MISSING");
        assert_eq!(answer(&gateway, with(Request::get(path)), Body::empty()).await.status(), StatusCode::OK);
    }
    assert_eq!(reason(&inspect(&gateway, bitmap(30, 30)).await), (401, "TOKEN_MISSING"));
    let let_in = answer(&gateway, with(Request::post("/tessera/inspect")), bitmap(30, 30)).await;
    assert_eq!(let_in.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_pools_list_everybody_who_is_listed() {
    let response = get_path(&gateway(&with_the_page()), "/tessera/pools").await;
    assert_eq!(response.headers()["cache-control"], "no-store");
    let pools = json(response).await;
    for (pool, url) in [("vision", "http://127.0.0.1:9"), ("language", "http://127.0.0.1:10")] {
        let worker = &pools[pool]["workers"][0];
        assert_eq!((&worker["url"], &worker["in_flight"]), (&json!(url), &json!(0)), "{pools}");
        assert!(["new", "lost"].contains(&worker["state"].as_str().unwrap()) && worker["load"].is_null(), "{pools}");
    }
}

#[test]
fn reports_are_told_as_the_page_reads_them() {
    let room = vision::Room { bytes: 3, most: 4 };
    let load =
        vision::Load { tiles: 1, most_tiles: 2, busy: Duration::from_micros(1500), memory: room, ..Default::default() };
    let told = pools::vision_load(&load);
    assert_eq!((&told["busy_ms"], &told["memory"]), (&json!(1.5), &json!({"bytes": 3, "most": 4})));
    let load =
        language::Load { running: 1, waiting: 2, total_blocks: 9, free_blocks: 4, new_tokens: 7, ..Default::default() };
    let told = pools::language_load(&load);
    assert_eq!(told["total_blocks"].as_u64().unwrap() - told["free_blocks"].as_u64().unwrap(), 5);
    assert_eq!(told["new_tokens"], 7);
}
