import { createSocket } from 'node:dgram';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import { asFault } from '@signalbox/faults/fault';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { createGuardedFetch, type GuardedFetchOptions } from './guarded-fetch.ts';

interface Seen {
  readonly host: string | undefined;
  readonly method: string | undefined;
  readonly url: string | undefined;
  readonly body: string;
  readonly connection: string | undefined;
  readonly via: string;
}
const seen: Seen[] = [];

/** Two of them, on two addresses of this machine and the same port. */
const serverAt = (via: string): Server =>
  createServer((request, response) => {
    let body = '';
    request.on('data', (piece) => (body += piece));
    request.on('end', () => {
      const { host, connection } = request.headers;
      seen.push({ host, method: request.method, url: request.url, body, connection, via });
      if (request.url === '/redirect')
        response.writeHead(307, { location: 'http://127.0.0.1/inside' }).end('moved');
      else if (request.url === '/long') response.writeHead(200).end('x'.repeat(5_000));
      else if (request.url === '/silent') response.writeHead(200).write('begun');
      else if (request.url === '/trickle') {
        response.writeHead(200);
        const timer = setInterval(() => response.write('.'), 10);
        response.on('close', () => clearInterval(timer));
      } else response.writeHead(200, { 'x-answer': 'yes' }).end('taken');
    });
  });
const first = serverAt('first');
const second = serverAt('second');
let port: number;

beforeAll(async () => {
  await new Promise<void>((resolve) => first.listen(0, '127.0.0.1', resolve));
  port = (first.address() as AddressInfo).port;
  await new Promise<void>((resolve) => second.listen(port, '127.0.0.2', resolve));
});
afterAll(() => {
  for (const server of [first, second]) {
    server.closeAllConnections();
    server.close();
  }
});
beforeEach(() => {
  seen.length = 0;
});

function fetchWith(options: Partial<GuardedFetchOptions> = {}) {
  return createGuardedFetch({
    allowedHosts: [],
    timeoutMs: 2_000,
    idleTimeoutMs: 1_000,
    maxResponseBytes: 1_000,
    resolve: async () => ['127.0.0.1'],
    ...options,
  });
}
const hook = (path = '/') => `http://hook.example:${port}${path}`;
const post = { method: 'POST', body: '{"a":1}', headers: { 'content-type': 'application/json' } } as const;

it('calls the address of the name, and speaks of the name', async () => {
  const answer = await fetchWith({ allowedHosts: ['hook.example'] })(hook('/in?a=b'), post);
  expect(answer).toMatchObject({ status: 200, body: 'taken', address: '127.0.0.1' });
  expect(answer.headers['x-answer']).toBe('yes');
  expect(seen).toEqual([
    {
      host: `hook.example:${port}`,
      method: 'POST',
      url: '/in?a=b',
      body: '{"a":1}',
      connection: 'close',
      via: 'first',
    },
  ]);
});

it('connects to the address that was judged, though the resolver would say another one now', async () => {
  const answers = [['127.0.0.2'], ['127.0.0.1']];
  let asked = 0;
  const resolve = async () => answers[asked++] ?? [];
  const fetch = fetchWith({ allowedHosts: ['hook.example'], resolve });
  expect((await fetch(hook(), post)).address).toBe('127.0.0.2');
  expect(seen.map(({ via }) => via)).toEqual(['second']);
  expect(asked).toBe(1);
});

it.each([
  ['a private one', ['10.0.0.1']],
  ['loopback', ['127.0.0.1']],
  ['the metadata service', ['169.254.169.254']],
  ['loopback inside IPv6', ['::ffff:127.0.0.1']],
  ['a private one beside a public one', ['8.8.8.8', '192.168.1.1']],
  ['a public one beside IPv6 loopback', ['8.8.8.8', '::1']],
  ['what is no address', ['hook.example']],
])('refuses a name that leads to %s, and calls nobody', async (_what, addresses) => {
  const refused = fetchWith({ resolve: async () => addresses })(hook(), post);
  await expect(refused).rejects.toMatchObject({ code: 'ADDRESS_REFUSED' });
  expect(seen).toEqual([]);
});

it('refuses a name that led outside at the last call and inside at this one', async () => {
  let inside = false;
  const fetch = fetchWith({
    resolve: async () => (inside ? ['127.0.0.1'] : []),
  });
  await expect(fetch(hook(), post)).rejects.toMatchObject({ code: 'CALL_FAILED' });
  inside = true;
  await expect(fetch(hook(), post)).rejects.toMatchObject({ code: 'ADDRESS_REFUSED' });
  expect(seen).toEqual([]);
});

it('refuses an address in the URL without asking anybody', async () => {
  let asked = 0;
  const fetch = fetchWith({
    resolve: async () => {
      asked += 1;
      return ['8.8.8.8'];
    },
  });
  for (const host of [
    '127.0.0.1',
    '2130706433',
    '0x7f.1',
    '[::1]',
    '[::ffff:7f00:1]',
    'localhost',
    'a.internal',
  ]) {
    await expect(fetch(`http://${host}:${port}/`, post), host).rejects.toMatchObject({
      code: 'ADDRESS_REFUSED',
    });
  }
  expect(asked).toBe(0);
  expect(seen).toEqual([]);
});

it('answers a redirect as it is and goes nowhere', async () => {
  const answer = await fetchWith({ allowedHosts: ['hook.example'] })(hook('/redirect'), post);
  expect(answer).toMatchObject({ status: 307, headers: { location: 'http://127.0.0.1/inside' } });
  expect(seen.map(({ url }) => url)).toEqual(['/redirect']);
});

it('tries the next address when one takes no connection', async () => {
  const fetch = fetchWith({
    allowedHosts: ['hook.example'],
    resolve: async () => ['127.0.0.3', '127.0.0.2'],
  });
  expect((await fetch(hook(), post)).address).toBe('127.0.0.2');
});

it('asks name servers, and a name that nobody answers for holds back no other', async () => {
  const asked: string[] = [];
  const names = createSocket('udp4');
  names.on('message', (question, from) => {
    const name = nameIn(question);
    asked.push(name);
    if (!name.startsWith('slow')) names.send(answerTo(question, [10, 0, 0, 7]), from.port, from.address);
  });
  await new Promise<void>((resolve) => names.bind(0, '127.0.0.1', resolve));
  const bounds = { timeoutMs: 2_000, idleTimeoutMs: 1_000, maxResponseBytes: 1_000 };
  const nameServers = [`127.0.0.1:${names.address().port}`];
  const fetch = createGuardedFetch({ allowedHosts: [], nameServers, ...bounds });
  const slow = Array.from({ length: 16 }, (_, at) =>
    fetch(`http://slow${at}.example/`, post).then(
      () => 'answered',
      (error: unknown) => asFault(error).code,
    ),
  );
  await expect.poll(() => asked.filter((name) => name.startsWith('slow')).length).toBeGreaterThanOrEqual(16);
  await expect(fetch('http://well.example/', post)).rejects.toMatchObject({
    code: 'ADDRESS_REFUSED',
    details: { why: 'private' },
  });
  expect(new Set(await Promise.all(slow))).toEqual(new Set(['TIMEOUT']));
  names.close();
});

/** The name that a DNS question asks for. */
function nameIn(question: Buffer): string {
  const labels: string[] = [];
  for (let at = 12; ; ) {
    const length = question[at] ?? 0;
    if (length === 0) return labels.join('.');
    labels.push(question.toString('latin1', at + 1, at + 1 + length));
    at += 1 + length;
  }
}

/** One A record; nothing for other types. */
function answerTo(question: Buffer, address: readonly number[]): Buffer {
  const end = 12 + Buffer.byteLength(nameIn(question)) + 2 + 4;
  const isA = question.readUInt16BE(end - 4) === 1;
  const head = Buffer.from(question.subarray(0, end));
  head.writeUInt16BE(0x8180, 2);
  head.writeUInt16BE(isA ? 1 : 0, 6);
  head.writeUInt32BE(0, 8);
  const record = [0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, ...address];
  return Buffer.concat([head, Buffer.from(isA ? record : [])]);
}

it('sends nothing twice: a connection that broke is the end of the call', async () => {
  let connections = 0;
  const rude = createTcpServer((socket) => {
    connections += 1;
    socket.on('error', () => undefined);
    socket.once('data', () => socket.destroy());
  });
  await new Promise<void>((resolve) => rude.listen(0, '127.0.0.1', resolve));
  const url = `http://hook.example:${(rude.address() as AddressInfo).port}/`;
  const fetch = fetchWith({
    allowedHosts: ['hook.example'],
    resolve: async () => ['127.0.0.1', '127.0.0.1'],
  });
  await expect(fetch(url, post)).rejects.toMatchObject({ code: 'CALL_FAILED' });
  expect(connections).toBe(1);
  rude.close();
});

it('bounds the body, the silence and the whole call', async () => {
  const options = { allowedHosts: ['hook.example'] };
  await expect(fetchWith(options)(hook('/long'), post)).rejects.toMatchObject({ code: 'CALL_FAILED' });
  const idle = fetchWith({ ...options, idleTimeoutMs: 60 })(hook('/silent'), post);
  await expect(idle).rejects.toMatchObject({ code: 'TIMEOUT' });
  const total = fetchWith({ ...options, timeoutMs: 150 })(hook('/trickle'), post);
  await expect(total).rejects.toMatchObject({ code: 'TIMEOUT' });
  const resolving = fetchWith({ ...options, timeoutMs: 50, resolve: () => new Promise(() => undefined) });
  await expect(resolving(hook(), post)).rejects.toMatchObject({ code: 'TIMEOUT' });
});

it('has its answer with the headers, where the body does not matter', async () => {
  const fetch = fetchWith({ allowedHosts: ['hook.example'] });
  for (const path of ['/long', '/silent', '/trickle']) {
    expect(await fetch(hook(path), { ...post, headOnly: true })).toMatchObject({ status: 200, body: '' });
  }
});

it('fails when the answer is another protocol, which nobody asked for', async () => {
  const switching = createTcpServer((socket) => {
    socket.on('error', () => undefined);
    socket.once('data', () =>
      socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n'),
    );
  });
  await new Promise<void>((resolve) => switching.listen(0, '127.0.0.1', resolve));
  const url = `http://hook.example:${(switching.address() as AddressInfo).port}/`;
  const fetch = fetchWith({ allowedHosts: ['hook.example'], resolve: async () => ['127.0.0.1'] });
  await expect(fetch(url, post)).rejects.toMatchObject({ code: 'CALL_FAILED' });
  switching.close();
});

it('ends with the reason of an abort', async () => {
  const reason = new Error('no longer wanted');
  const abort = new AbortController();
  const call = fetchWith({ allowedHosts: ['hook.example'] })(hook('/silent'), {
    ...post,
    signal: abort.signal,
  });
  await expect.poll(() => seen.length).toBe(1);
  abort.abort(reason);
  await expect(call).rejects.toBe(reason);
});

it('asks TLS for the name, while it calls the address', async () => {
  const names: string[] = [];
  const secure = createTlsServer({
    SNICallback(name, done) {
      names.push(name);
      done(new Error('no certificate here'));
    },
  });
  secure.on('tlsClientError', () => undefined);
  await new Promise<void>((resolve) => secure.listen(0, '127.0.0.1', resolve));
  const url = `https://hook.example:${(secure.address() as AddressInfo).port}/`;
  const call = fetchWith({ allowedHosts: ['hook.example'] })(url, post);
  await expect(call).rejects.toMatchObject({ code: 'CALL_FAILED' });
  expect(names).toEqual(['hook.example']);
  secure.close();
});
