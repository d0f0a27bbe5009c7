//! How long a caller of the gateway waits for the first token.

use std::time::{Duration, Instant};

use tessera_api::proto::gateway::v1::gateway_client::GatewayClient;
use tessera_api::{Error, gateway};
use tonic::transport::Channel;

/// Asks one question about a picture, and returns how long the first token took.
pub(crate) async fn first_token(channel: Channel, picture: &[u8], question: &str) -> Result<Duration, Error> {
    let parts = vec![
        gateway::Part::Image(gateway::ImageSource::File(picture.to_vec().into())),
        gateway::Part::Text(question.into()),
    ];
    let input = gateway::Input::Conversation(vec![gateway::Message { role: gateway::Role::User, parts }]);
    let settings = gateway::Settings { max_tokens: Some(1), temperature: Some(0.0), ..Default::default() };
    let request = gateway::GenerateRequest { request_id: String::new(), input, settings };
    let request = tessera_api::proto::gateway::v1::GenerateRequest::from(request);

    let begun = Instant::now();
    let mut events = GatewayClient::new(channel).generate(request).await?.into_inner();
    while let Some(response) = events.message().await? {
        if matches!(response.try_into()?, gateway::Event::Delta { token_ids, .. } if !token_ids.is_empty()) {
            return Ok(begun.elapsed());
        }
    }
    panic!("an answer has a token")
}
