/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every bound the daemon enforces on what a peer, a pod, a file or an operator can make it
 * hold. One enum, one comment each; culvert.yaml's `limits` may lower or raise the few that
 * say so. Kernel-side capacities are in maps/abi.h.
 */
#pragma once

enum cv_limits {
	/* --- per worker --- */
	CV_LIMIT_WORKERS = 64, /* worker threads */
	CV_LIMIT_BACKLOG = 4096, /* connections that wait to be accepted, per listener */
	CV_LIMIT_ACCEPTS_PER_WAKEUP = 64, /* accept() calls in one callback */
	CV_LIMIT_BYTES_PER_WAKEUP = 1 << 20, /* bytes moved for one socket in one callback */
	CV_LIMIT_CONNECTIONS = 65536, /* connections and streams of one worker (settable) */
	CV_LIMIT_CONNECTIONS_POD = 16384, /* of one pod on one worker (settable) */

	/* --- TLS and HTTP/2 --- */
	CV_LIMIT_HANDSHAKE_MS = 10000, /* TCP accept to finished TLS and HTTP/2 preface */
	CV_LIMIT_HANDSHAKES = 1024, /* unfinished handshakes of one worker */
	CV_LIMIT_STREAMS_IN = 200, /* SETTINGS_MAX_CONCURRENT_STREAMS that we announce */
	CV_LIMIT_STREAMS_OUT = 100, /* streams that we open on one connection */
	CV_LIMIT_HEADER_BYTES = 65536, /* SETTINGS_MAX_HEADER_LIST_SIZE of the server side */
	CV_LIMIT_HEADER_BYTES_CLIENT = 16384, /* the same of the client side */
	CV_LIMIT_HEADERS = 100, /* header fields of one request */
	CV_LIMIT_CONTINUATIONS = 8, /* CONTINUATION frames of one header block */
	CV_LIMIT_SETTINGS_ENTRIES = 32, /* entries of one SETTINGS frame */
	CV_LIMIT_OUTBOUND_ACKS = 1000, /* unsent PING and SETTINGS acknowledgements */
	CV_LIMIT_RESETS_BURST = 1000, /* RST_STREAM and rejected requests a connection may burst */
	CV_LIMIT_RESETS_RATE = 33, /* … and send per second after that */
	CV_LIMIT_REFUSALS_BURST = 1000, /* requests that end in a 4xx/5xx of ours, in a burst */
	CV_LIMIT_CONTROL_BURST =
		10000, /* PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA in a burst */
	CV_LIMIT_CONTROL_RATE =
		1000, /* … and per second after that; 1 KiB of DATA sent is worth one */
	CV_LIMIT_PING_MS = 10000, /* keepalive PING interval */
	CV_LIMIT_PONG_MS = 20000, /* … and how long its answer may take */
	CV_LIMIT_STREAM_WINDOW = 4 << 20, /* HTTP/2 stream window that we announce */
	CV_LIMIT_CONNECTION_WINDOW = 16 << 20, /* HTTP/2 connection window that we announce */
	CV_LIMIT_FRAME_BYTES = 1 << 20, /* SETTINGS_MAX_FRAME_SIZE that we announce */

	/* --- data held per connection --- */
	CV_LIMIT_TCP_READ = 256 << 10, /* read buffer of one direction at most */
	CV_LIMIT_TLS_OUT = 512
			   << 10, /* encrypted bytes waiting for the socket; then reading stops */
	CV_LIMIT_CONNECTION_HELD =
		32
		<< 20, /* decrypted bytes of all streams of an HTTP/2 connection that wait for slow readers, before its window closes */

	/* --- connecting --- */
	CV_LIMIT_CONNECT_MS = 10000, /* TCP connect of any upstream */
	CV_LIMIT_WORKLOAD_WAIT_MS = 5000, /* wait for the local pod's workload record */
	CV_LIMIT_WAITING =
		4096, /* connections of one pod that wait for that record or a certificate */
	CV_LIMIT_RESOLVE_NAMES = 1024, /* host names in the cache of one resolver (one a worker) */
	CV_LIMIT_RESOLVE_PENDING = 256, /* … that are being asked at once */
	CV_LIMIT_RESOLVE_ADDRS = 16, /* addresses kept of one name */
	CV_LIMIT_POOL_IDLE_MS = 300000, /* pooled connection without streams */
	CV_LIMIT_POOL_CONNECTIONS = 4096, /* pooled HBONE connections of one worker */

	/* --- DNS --- */
	CV_LIMIT_DNS_QUERIES = 8192, /* queries in flight of one worker */
	CV_LIMIT_DNS_QUERIES_POD = 2048, /* of one pod on one worker */
	CV_LIMIT_DNS_QUERY_BYTES = 4096, /* one query, and an upstream's answer over UDP */
	CV_LIMIT_DNS_RECEIVE_BYTES = 1 << 20, /* datagrams that wait in one socket */
	CV_LIMIT_DNS_READS_PER_WAKEUP = 64, /* datagrams read in one callback */
	CV_LIMIT_DNS_ADDRESSES = 4096, /* addresses of one answer */
	CV_LIMIT_DNS_TCP = 256, /* TCP connections of one pod on one worker */
	CV_LIMIT_DNS_TCP_IDLE_MS = 5000, /* TCP connection without a whole query */
	CV_LIMIT_DNS_TCP_PIPELINE = 32, /* unanswered queries of one TCP connection */
	CV_LIMIT_DNS_TCP_OUT = 256
			       << 10, /* answers that wait for a slow reader; then reading stops */
	CV_LIMIT_DNS_SERVERS = 3, /* upstream resolvers */
	CV_LIMIT_DNS_FORWARD_MS = 15000, /* one query's stay upstream, all tries together */
	CV_LIMIT_DNS_REPLY_SOCKETS = 4, /* server addresses of a pod whose sockets are kept */
	CV_LIMIT_DNS_SERIES = 4096, /* metric series of DNS; the rest is counted as "overflow" */
	/* --- gRPC to the control plane --- */
	CV_LIMIT_GRPC_WINDOW = 1 << 20, /* HTTP/2 stream window that we announce */
	CV_LIMIT_GRPC_CONNECTION_WINDOW = 4 << 20, /* HTTP/2 connection window */
	CV_LIMIT_GRPC_HEADERS = 32 << 10, /* headers and trailers of one call */
	CV_LIMIT_GRPC_TEXT = 2048, /* bytes of a grpc-message that are kept */
	CV_LIMIT_GRPC_CALLS = 100, /* open at a time on one connection */
	CV_LIMIT_GRPC_SEND = 64 << 20, /* unsent messages of one call */
	CV_LIMIT_GRPC_WIRE = 512 << 10, /* unsent bytes of a connection without TLS */
	CV_LIMIT_GRPC_CONNECT_MS = 5000, /* resolving, and connecting to one address */
	CV_LIMIT_GRPC_IDLE_MS = 90000, /* a connection without calls */
	CV_LIMIT_GRPC_DRAINING = 4, /* connections that end with their last call */
	CV_LIMIT_GRPC_ADDRESSES = 8, /* addresses of the server that are tried */
	CV_LIMIT_PEM_BYTES = 1 << 20, /* root and token files */
	CV_LIMIT_GRPC_PING_MS = 30000, /* keepalive PING interval */
	CV_LIMIT_GRPC_PONG_MS = 10000, /* … and how long its answer may take */

	/* --- xDS --- */
	CV_LIMIT_XDS_RESPONSE = 200 << 20, /* bytes of a response; it is never held whole */
	CV_LIMIT_XDS_RESOURCE = 4 << 20, /* bytes of one resource */
	CV_LIMIT_XDS_NAME = 4096, /* bytes of a resource's name, a nonce, a type */
	CV_LIMIT_XDS_RESOURCES = 1 << 20, /* resources of one type that are held */
	CV_LIMIT_XDS_REQUEST = 4 << 20, /* bytes of a request that istiod takes */
	CV_LIMIT_XDS_REFUSALS = 4096, /* bytes of the text that says what was refused */
	CV_LIMIT_STORE_GARBAGE = 4096, /* changes whose old objects wait for readers */
	CV_LIMIT_XDS_BATCH = 256, /* workloads and services that are applied at once */
	CV_LIMIT_XDS_HELD_MS = 1000, /* a workload waits for a policy that it lists and we lack */
	CV_LIMIT_DEMAND_KEYS = 4096, /* … asked for on demand; and known to lead to nothing */
	CV_LIMIT_DEMAND_MS = 10000, /* a connection waits for what it has asked for */
	CV_LIMIT_DEMAND_ABSENT_MS = 10000, /* what leads to nothing is not asked for again */
	CV_LIMIT_XDS_RETRY_MS = 15000, /* longest wait before connecting again */

	/* --- control plane, files, admin --- */
	CV_LIMIT_FILE_BYTES = 64 << 20, /* local workload file */
	CV_LIMIT_STATE_BYTES = 4 << 20, /* pods.json */
	CV_LIMIT_YAML_DEPTH = 32, /* nesting of a YAML file */
	CV_LIMIT_YAML_NODES = 4 << 20, /* nodes of a YAML file, aliases counted as often as used */
	CV_LIMIT_SETTINGS_BYTES = 1 << 20, /* culvert.yaml */
	CV_LIMIT_ADMIN_CLIENTS = 64, /* admin, metrics and readiness connections, each */
	CV_LIMIT_ADMIN_HEADER = 8192, /* bytes of request line and headers */
	CV_LIMIT_ADMIN_BODY = 65536, /* bytes of a request body */
	CV_LIMIT_ADMIN_REQUEST_MS = 2000, /* connection (or last answer) to a whole request */
	CV_LIMIT_CONTROL_CLIENTS = 16, /* control-socket clients */
	CV_LIMIT_CONTROL_MESSAGE = 65536, /* bytes of one control request */
	CV_LIMIT_ZDS_PODS = 2048, /* pods that istio-cni may hand over */
	CV_LIMIT_CRL_BYTES = 16 << 20, /* file of revocation lists */
	CV_LIMIT_CERTS = 4096, /* identities with a certificate */
	CV_LIMIT_CHAIN = 16, /* certificates of one answer, its roots aside */
	CV_LIMIT_CA_ANSWER = 256 << 10, /* bytes of one answer of the CA, roots included */
	CV_LIMIT_CA_ANSWER_MS = 10000, /* connecting and the answer */
	CV_LIMIT_CLOSED_FLOWS = 1024, /* closed flows kept for `culvertctl flows` */
	CV_LIMIT_SERIES = 65536, /* metric series; the rest is counted under "overflow" */
	CV_LIMIT_NAME_SERIES = 4096, /* series of istio_on_demand_dns; the same */
	CV_LIMIT_LOG_LINES = 10000, /* queued log lines */
	CV_LIMIT_POLICY_PORTS =
		256, /* ports that policies of one destination may name before the daemon decides */
};
