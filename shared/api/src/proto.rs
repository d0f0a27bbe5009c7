//! Code generated from `proto/`. Named only here, in `shared/client`, in the services' `grpc` modules and in the gateway's
//! `inference` and `upstream`.

/// Every file of the contract as an encoded descriptor set, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

macro_rules! generated {
    ($module:ident, $package:literal) => {
        #[doc = concat!("Package `", $package, "`.")]
        pub mod $module {
            #[doc = concat!("Package `", $package, "`.")]
            pub mod v1 {
                tonic::include_proto!($package);
            }
        }
    };
}

/// Package `inference`: the Open Inference Protocol.
pub mod inference {
    tonic::include_proto!("inference");
}

generated!(embedding, "tessera.embedding.v1");
generated!(gateway, "tessera.gateway.v1");
generated!(language, "tessera.language.v1");
generated!(vision, "tessera.vision.v1");
