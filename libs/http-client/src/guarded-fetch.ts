import { Resolver, lookup as resolveHost } from 'node:dns/promises';
import { type IncomingMessage, Agent as PlainAgent, request as requestPlain } from 'node:http';
import { request as requestSecure, Agent as SecureAgent } from 'node:https';
import { isIP } from 'node:net';
import { fault } from '@signalbox/faults/fault';
import { canonicalHost, isAllowedHost, refusedAddress, refusedUrl } from './address-guard.ts';

export interface GuardedFetchOptions {
  /** Hosts that may be called whatever their address is, for development and tests; `*` for all. */
  readonly allowedHosts: readonly string[];
  /** Bound of a call from its begin to the end of the body: resolving, connecting, waiting, reading. */
  readonly timeoutMs: number;
  /** Bound of silence on its connection. */
  readonly idleTimeoutMs: number;
  /** More of a body than this is not read; the call fails. */
  readonly maxResponseBytes: number;
  /** Addresses of a name; the system's name servers are asked where none is given. */
  readonly resolve?: (name: string) => Promise<readonly string[]>;
  /** Asked instead of the system's: `address` or `address:port`. */
  readonly nameServers?: readonly string[];
}

export interface GuardedRequest {
  readonly method: 'GET' | 'POST';
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly signal?: AbortSignal;
  /** The status and the headers are the answer: however long its body is, or whether that ever ends, does not matter. */
  readonly headOnly?: boolean;
}

export interface GuardedAnswer {
  readonly status: number;
  /** By lower-case name. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** The address that was called. */
  readonly address: string;
}

export type GuardedFetch = (url: string, request: GuardedRequest) => Promise<GuardedAnswer>;

/** Addresses of a name that are tried at most: all were judged, each costs the time to find it silent. */
const maxAddresses = 4;

/**
 * Calls a URL that somebody outside has named, never an address inside.
 *
 * The name is resolved once, every address that comes back must be public, and the connection goes to one of exactly these:
 * a resolver that answers differently the second time (DNS rebinding) is not asked a second time. TLS and the Host header
 * speak of the name. A connection serves one call; redirects are answers as any other, never followed; proxies of the
 * environment are not used, since they would resolve the name again, inside.
 *
 * @throws ADDRESS_REFUSED, with the reason in `details`; TIMEOUT; CALL_FAILED when there was no answer that could be read. An
 * abort is thrown as the signal's reason.
 */
export function createGuardedFetch(options: GuardedFetchOptions): GuardedFetch {
  const resolve = options.resolve ?? resolverFor(options);
  return async (written, request) => {
    const timeLimit = AbortSignal.timeout(options.timeoutMs);
    const signal = request.signal === undefined ? timeLimit : AbortSignal.any([request.signal, timeLimit]);
    try {
      const url = guardedUrl(written, options.allowedHosts);
      const addresses = await untilAborted(addressesOf(url, options.allowedHosts, resolve), signal);
      return await callFirst(url, addresses.slice(0, maxAddresses), request, signal, options);
    } catch (error) {
      if (request.signal?.aborted) throw request.signal.reason;
      if (timeLimit.aborted)
        throw fault('TIMEOUT', `no answer within ${options.timeoutMs} ms`, { cause: error });
      throw error;
    }
  };
}

function guardedUrl(written: string, allowed: readonly string[]): URL {
  const why = refusedUrl(written, allowed);
  if (why !== undefined) throw refused(why);
  return new URL(written);
}

async function addressesOf(
  url: URL,
  allowed: readonly string[],
  resolve: (name: string) => Promise<readonly string[]>,
): Promise<readonly string[]> {
  const name = canonicalHost(url.hostname);
  if (isIP(name) !== 0) return [name]; // judged with the URL
  let addresses: readonly string[];
  try {
    addresses = await resolve(name);
  } catch (error) {
    throw fault('CALL_FAILED', 'the host name cannot be resolved', { cause: error });
  }
  if (addresses.length === 0) throw fault('CALL_FAILED', 'the host name has no address');
  if (isAllowedHost(name, allowed)) return addresses;
  // One that is refused condemns them all: who mixes them wants the private one to be called.
  for (const address of addresses) {
    const why = refusedAddress(address);
    if (why !== undefined) throw refused(why);
  }
  return addresses;
}

function refused(why: string) {
  return fault('ADDRESS_REFUSED', `the address may not be called: ${why}`, { details: { why } });
}

/** The next address is tried only when no connection came about: nothing was sent yet. */
async function callFirst(
  url: URL,
  addresses: readonly string[],
  request: GuardedRequest,
  signal: AbortSignal,
  options: GuardedFetchOptions,
): Promise<GuardedAnswer> {
  let last: unknown;
  for (const address of addresses) {
    const state = { connected: false };
    try {
      return await call(url, address, request, signal, options, state);
    } catch (error) {
      last = error;
      if (state.connected || signal.aborted) break;
    }
  }
  throw last;
}

function call(
  url: URL,
  address: string,
  { method, headers, body = '', headOnly = false }: GuardedRequest,
  signal: AbortSignal,
  { idleTimeoutMs, maxResponseBytes }: GuardedFetchOptions,
  state: { connected: boolean },
): Promise<GuardedAnswer> {
  const secure = url.protocol === 'https:';
  const name = canonicalHost(url.hostname);
  // An agent a call: nothing is kept for a later call of another name, and its proxyEnv is not the environment's.
  const agent = new (secure ? SecureAgent : PlainAgent)({ keepAlive: false });
  return new Promise<GuardedAnswer>((resolve, reject) => {
    signal.throwIfAborted();
    const outgoing = (secure ? requestSecure : requestPlain)({
      agent,
      method,
      // An address, so that node resolves nothing.
      host: address,
      port: url.port === '' ? (secure ? 443 : 80) : Number(url.port),
      path: `${url.pathname}${url.search}`,
      headers: { ...headers, host: url.host, 'content-length': String(Buffer.byteLength(body)) },
      // The certificate must be the name's; an address has no server name (RFC 6066).
      ...(secure ? { servername: isIP(name) === 0 ? name : '' } : {}),
    });
    const fail = (error: unknown) => {
      outgoing.destroy();
      reject(error);
    };
    const abort = () => fail(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    outgoing.on('close', () => signal.removeEventListener('abort', abort));
    // 101, which nobody asked for. Node would close the connection without a word.
    outgoing.on('upgrade', (_incoming, socket) => {
      socket.destroy();
      fail(fault('CALL_FAILED', 'the call was answered with another protocol'));
    });
    outgoing.setTimeout(idleTimeoutMs, () => fail(fault('TIMEOUT', `nothing came for ${idleTimeoutMs} ms`)));
    outgoing.on('socket', (socket) => socket.once('connect', () => (state.connected = true)));
    outgoing.on('error', (error) =>
      reject(fault('CALL_FAILED', `the call failed: ${reasonOf(error)}`, { cause: error })),
    );
    outgoing.on('response', (incoming) => {
      if (headOnly) {
        incoming.on('error', () => undefined);
        resolve({ status: incoming.statusCode ?? 502, headers: headersOf(incoming), body: '', address });
        outgoing.destroy();
        return;
      }
      readBody(incoming, maxResponseBytes).then(
        (text) =>
          resolve({ status: incoming.statusCode ?? 502, headers: headersOf(incoming), body: text, address }),
        fail,
      );
    });
    outgoing.end(body);
  }).finally(() => agent.destroy());
}

async function readBody(incoming: IncomingMessage, maxBytes: number): Promise<string> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const piece of incoming) {
      if (!Buffer.isBuffer(piece)) continue;
      bytes += piece.length;
      if (bytes > maxBytes) break;
      pieces.push(piece);
    }
  } catch (error) {
    throw fault('CALL_FAILED', `the answer broke off: ${reasonOf(error)}`, { cause: error });
  }
  if (bytes > maxBytes) throw fault('CALL_FAILED', `the answer is longer than ${maxBytes} bytes`);
  return Buffer.concat(pieces).toString('utf8');
}

function headersOf(incoming: IncomingMessage): Record<string, string> {
  return Object.fromEntries(
    Object.entries(incoming.headersDistinct).map(([name, values]) => [name, values?.join(', ') ?? '']),
  );
}

/** The system's code, never its message: that one names addresses. */
function reasonOf(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string'
    ? error.code
    : 'unreadable';
}

/** Bound of the first question to a name server; the second has twice that. */
const nameTimeoutMs = 2_000;

/**
 * Asks the name servers itself. The system's resolver has two threads for the whole process: 16 names of one tenant that
 * nobody answers for held back every other name for 80 s, the database's among them. Hosts that the settings let through
 * are looked up as the system does it: they may stand in its own files alone.
 */
function resolverFor({ allowedHosts, nameServers }: GuardedFetchOptions) {
  const resolver = new Resolver({ timeout: nameTimeoutMs, tries: 2 });
  if (nameServers !== undefined) resolver.setServers([...nameServers]);
  return async (name: string): Promise<readonly string[]> => {
    if (isAllowedHost(name, allowedHosts)) {
      const found = await resolveHost(name, { all: true, order: 'ipv4first' });
      return found.map(({ address }) => address);
    }
    const [four, six] = await Promise.allSettled([resolver.resolve4(name), resolver.resolve6(name)]);
    const addresses = [four, six].flatMap((each) => (each.status === 'fulfilled' ? each.value : []));
    if (addresses.length === 0 && four.status === 'rejected') throw four.reason;
    return addresses;
  };
}

/** A resolver cannot be stopped; its answer is no longer wanted. */
function untilAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
