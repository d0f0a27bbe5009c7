//! What operators ask any server: whether it serves, and what.

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};

use crate::cluster::{Cluster, limited};
use crate::running::Running;

async fn serving(service: &Running, name: &str) -> Result<i32, tonic::Code> {
    let request = HealthCheckRequest { service: name.into() };
    let checked = HealthClient::new(service.channel()).check(request).await;
    checked.map(|response| response.into_inner().status).map_err(|status| status.code())
}

#[test]
fn health_knows_the_server_and_each_service() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        for (service, names) in [
            (&cluster.gateway, &["tessera.gateway.v1.Gateway", "inference.GRPCInferenceService"][..]),
            (&cluster.vision, &["tessera.vision.v1.VisionWorker", "tessera.embedding.v1.EmbeddingStore"]),
            (&cluster.language, &["tessera.language.v1.LanguageWorker"]),
        ] {
            for name in [""].iter().chain(names) {
                assert_eq!(serving(service, name).await, Ok(i32::from(ServingStatus::Serving)), "{name}");
            }
            assert_eq!(serving(service, "tessera.nothing.v1.Nothing").await, Err(tonic::Code::NotFound));
        }
    });
}

/// The names that reflection lists; its two versions have the same messages in two packages.
macro_rules! reflected {
    ($version:ident, $service:expr) => {{
        use $version::server_reflection_client::ServerReflectionClient;
        use $version::server_reflection_request::MessageRequest;
        use $version::server_reflection_response::MessageResponse;
        let request = $version::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut client = ServerReflectionClient::new($service.channel());
        let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
        match answers.message().await.unwrap().unwrap().message_response {
            Some(MessageResponse::ListServicesResponse(list)) => {
                list.service.into_iter().map(|one| one.name).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    }};
}

#[test]
fn reflection_lists_in_both_versions_what_a_server_has_and_nothing_else() {
    let everywhere =
        ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let gateway =
            ["tessera.gateway.v1.Gateway", "tessera.embedding.v1.EmbeddingStore", "inference.GRPCInferenceService"];
        for (service, names) in [
            (&cluster.gateway, &gateway[..]),
            (&cluster.vision, &["tessera.vision.v1.VisionWorker", "tessera.embedding.v1.EmbeddingStore"]),
            (&cluster.language, &["tessera.language.v1.LanguageWorker"]),
        ] {
            let mut expected = [names, &everywhere].concat();
            expected.sort_unstable();
            for mut listed in [reflected!(v1, service), reflected!(v1alpha, service)] {
                listed.sort_unstable();
                assert_eq!(listed, expected);
            }
        }
    });
}
