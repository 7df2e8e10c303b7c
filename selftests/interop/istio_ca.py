#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A test CA that speaks Istio's certificate RPC and signs with culvert's development root.

	istio_ca.py DIRECTORY PORT [BEARER-TOKEN]

DIRECTORY holds root-key.pem and root-cert.pem. Serves
istio.v1.auth.IstioCertificateService/CreateCertificate over TLS on the loopback addresses, as
`localhost`. It signs whatever identity is asked for, with the token if one is given: for tests.

The files are read for each request, so they can be replaced, and these can be added:
	roots.pem  what answers say the roots are, in place of root-cert.pem
	refused    identities, one a line, that have no pod on the node
"""

import concurrent.futures
import datetime
import os
import sys

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from wire import decode, field  # noqa: E402

SERVICE = "istio.v1.auth.IstioCertificateService"


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


class Refused(Exception):
    pass


class Authority:
    def __init__(self, directory):
        self.directory = directory
        self.load()

    def read(self, name, default=None):
        try:
            with open(os.path.join(self.directory, name), "rb") as f:
                return f.read()
        except FileNotFoundError:
            if default is None:
                raise
            return default

    def load(self):
        self.key = serialization.load_pem_private_key(self.read("root-key.pem"), None)
        self.root_pem = self.read("root-cert.pem")
        self.root = x509.load_pem_x509_certificate(self.root_pem)
        self.roots_pem = self.read("roots.pem", self.root_pem)
        self.refused = self.read("refused", b"").decode().split()

    def issue(self, public_key, names, seconds):
        """A certificate for these alternative names."""
        now = datetime.datetime.utcnow()
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.root.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(seconds=seconds))
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(True, False, True, False, False, False, False, False, False),
                critical=True,
            )
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def create_certificate(self, request):
        """The RPC: IstioCertificateRequest to IstioCertificateResponse"""
        fields = {number: values[-1] for number, values in decode(request).items()}
        csr = x509.load_pem_x509_csr(fields[1])
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.load()
        for name in names:
            if name.value in self.refused or name.value.encode() not in fields.get(4, b""):
                print("refused " + name.value, flush=True)
                raise Refused
        leaf = self.issue(csr.public_key(), list(names), fields.get(3) or 86400)
        print("signed " + " ".join(name.value for name in names), flush=True)
        chain = [pem(leaf), self.roots_pem]
        return b"".join(field(1, one) for one in chain)


class Handler(grpc.GenericRpcHandler):
    def __init__(self, authority, token):
        self.authority = authority
        self.token = token

    def service(self, details):
        if details.method != f"/{SERVICE}/CreateCertificate":
            return None
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request, context):
        sent = dict(context.invocation_metadata()).get("authorization")
        if self.token and sent != f"Bearer {self.token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "request authenticate failure")
        try:
            return self.authority.create_certificate(request)
        except Refused:
            context.abort(
                grpc.StatusCode.UNAUTHENTICATED, "request impersonation authentication failure"
            )
        except (KeyError, IndexError, ValueError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"not a certificate request: {error}")


def main():
    authority = Authority(sys.argv[1])
    port = sys.argv[2]
    token = sys.argv[3] if len(sys.argv) > 3 else None
    key = ec.generate_private_key(ec.SECP256R1())
    own = authority.issue(key.public_key(), [x509.DNSName("localhost")], 86400)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=4)
    server = grpc.server(pool, handlers=[Handler(authority, token)])
    credentials = grpc.ssl_server_credentials([(key_pem, pem(own) + authority.root_pem)])
    for address in ("127.0.0.1", "[::1]"):
        server.add_secure_port(f"{address}:{port}", credentials)
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
