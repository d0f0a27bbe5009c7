"""The contract that the gateway reflects beside the one that Triton's client was made of: names, numbers, types."""

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import model_config_pb2, service_pb2

SERVICE = "inference.GRPCInferenceService"


@pytest.fixture(scope="module")
def ours(gateway):
    """The service as the gateway reflects it."""
    with grpc.insecure_channel(gateway.address) as channel:
        yield DescriptorPool(ProtoReflectionDescriptorDatabase(channel)).FindServiceByName(SERVICE)


def messages(descriptors) -> dict:
    """All messages among these and within them, by full name."""
    found = {}
    for message in descriptors:
        found |= {message.full_name: message} | messages(message.nested_types)
    return found


def fields(message) -> dict[str, tuple]:
    """What decides how each field of a message is written."""

    def of(field):
        kind = field.message_type or field.enum_type
        oneof = field.containing_oneof
        return field.number, field.type, field.is_repeated, kind and kind.full_name, oneof and oneof.name

    return {field.name: of(field) for field in message.fields}


@pytest.mark.feature("tritonclient", "reflection")
def test_methods_are_those_of_the_client(ours):
    (theirs,) = service_pb2.DESCRIPTOR.services_by_name.values()

    def methods(service):
        def of(method):
            types = method.input_type.full_name, method.output_type.full_name
            return types, method.client_streaming, method.server_streaming

        return {method.name: of(method) for method in service.methods}

    assert methods(ours) == methods(theirs)


@pytest.mark.feature("tritonclient", "reflection")
def test_messages_are_those_of_the_client(ours):
    theirs = messages(service_pb2.DESCRIPTOR.message_types_by_name.values())
    reflected = messages(ours.file.message_types_by_name.values())
    assert {name: fields(message) for name, message in reflected.items()} == {
        name: fields(message) for name, message in theirs.items()
    }


@pytest.mark.feature("tritonclient", "reflection")
def test_a_configuration_has_nothing_that_the_client_reads_otherwise(ours):
    (config,) = [file for file in ours.file.dependencies if file.name == "inference/model_config.proto"]
    theirs = messages(model_config_pb2.DESCRIPTOR.message_types_by_name.values())
    for name, message in messages(config.message_types_by_name.values()).items():
        assert fields(message).items() <= fields(theirs[name]).items(), name
    (types,) = config.enum_types_by_name.values()
    assert types.values_by_number.keys() == model_config_pb2.DataType.DESCRIPTOR.values_by_number.keys()
    for number, value in types.values_by_number.items():
        assert value.name == model_config_pb2.DataType.Name(number)
