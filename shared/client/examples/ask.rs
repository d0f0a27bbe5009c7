//! Asks a gateway about a chart. With `tessera up` in another terminal: `cargo run -p tessera-client --example ask`.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use tessera_client::{Ask, Client, Image};

const GATEWAY: &str = "http://127.0.0.1:50051";
const PICTURE: &[u8] = include_bytes!("../../demo-model/sample/001.jpg");

#[tokio::main]
async fn main() -> Result<(), tessera_client::Error> {
    let client = Client::builder(GATEWAY).deadline(Duration::from_secs(60)).connect().await?;

    let encoded = client.encode(PICTURE).await?;
    println!("{} stands for the picture, which fills {} tokens", encoded.image.key, encoded.image.image_tokens);

    let picture = Image::stored_or(encoded.image.key, PICTURE.to_vec());
    let mut answer = client.generate(Ask::new("Which bar is the highest?").image(picture)).await?;
    while let Some(text) = answer.next_text().await? {
        println!("{text}");
    }
    let reply = answer.finish().await?;
    let end = reply.samples[0].finished;
    println!(
        "{} tokens, {:?}; images that were stored before: {}",
        end.usage.completion_tokens, end.timings.total, end.timings.images_stored_before
    );
    Ok(())
}
