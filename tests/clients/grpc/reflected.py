"""A client that knows nothing of the contract: it learns every message from reflection."""

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2

VERSIONS = ("v1", "v1alpha")


class Reflected:
    """What a server says of itself, in one version of the protocol; both have the same messages."""

    def __init__(self, channel: grpc.Channel, version: str):
        self.channel = channel
        self.ask_server = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        self.pool = descriptor_pool.DescriptorPool()

    def ask(self, **request):
        """Asks one question of reflection."""
        (answer,) = self.ask_server(iter([reflection_pb2.ServerReflectionRequest(**request)]))
        assert answer.WhichOneof("message_response") != "error_response", answer.error_response
        return answer

    def services(self) -> list[str]:
        """The names of all services."""
        return sorted(service.name for service in self.ask(list_services="").list_services_response.service)

    def learn(self, symbol: str) -> None:
        """Learns the file that a symbol stands in, and all that this one imports."""
        files, known = list(self.ask(file_containing_symbol=symbol).file_descriptor_response.file_descriptor_proto), {}
        while files:
            file = descriptor_pb2.FileDescriptorProto.FromString(files.pop())
            known[file.name] = file
            for name in set(file.dependency) - known.keys():
                files += self.ask(file_by_filename=name).file_descriptor_response.file_descriptor_proto

        def add(name: str) -> None:
            file = known.pop(name, None)
            if file is not None:
                for dependency in file.dependency:
                    add(dependency)
                self.pool.Add(file)

        for name in list(known):
            add(name)

    def message(self, name: str):
        """The class of a message."""
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))

    def method(self, service: str, name: str):
        """A method that is called like one of a generated stub."""
        method = self.pool.FindServiceByName(service).FindMethodByName(name)
        kind = ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
        return getattr(self.channel, "_".join(kind))(
            f"/{service}/{name}",
            request_serializer=message_factory.GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
