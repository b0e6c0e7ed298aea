import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type FaultProxy, startFaultProxy } from './fault-proxy.ts';
import { waitFor } from './wait.ts';

const upstream = createServer((socket) => {
  socket.on('data', (chunk) => socket.write(`echo ${chunk}`));
  socket.on('error', () => undefined);
});
let proxy: FaultProxy;
const clients: Socket[] = [];

beforeEach(async () => {
  if (!upstream.listening) {
    await once(upstream.listen(0, '127.0.0.1'), 'listening');
  }
  const address = upstream.address();
  proxy = await startFaultProxy({
    host: '127.0.0.1',
    port: typeof address === 'object' && address !== null ? address.port : 0,
  });
});

afterEach(async () => {
  for (const socket of clients.splice(0)) {
    socket.destroy();
  }
  await proxy.close();
});

interface Client {
  readonly socket: Socket;
  heard(): string;
  end(): string | undefined;
}

async function open(): Promise<Client> {
  const socket = connect(proxy.port, '127.0.0.1');
  clients.push(socket);
  let heard = '';
  let end: string | undefined;
  socket.on('data', (chunk) => {
    heard += String(chunk);
  });
  socket.on('error', (error: NodeJS.ErrnoException) => {
    end = error.code ?? error.message;
  });
  socket.on('close', () => {
    end ??= 'closed';
  });
  await new Promise((resolve) => socket.once('connect', resolve).once('close', resolve));
  return { socket, heard: () => heard, end: () => end };
}

const hears = (client: Client, text: string) =>
  waitFor(client.heard, (heard) => heard === text, { timeoutMs: 2_000 });

test('passes bytes both ways and the end of a stream', async () => {
  const client = await open();
  client.socket.write('a');
  await hears(client, 'echo a');
  client.socket.end();
  await waitFor(proxy.connections, (count) => count === 0);
});

test('refuses on the same port until healed, and resets what was open', async () => {
  const before = await open();
  await proxy.refuse();
  await waitFor(before.end, (end) => end === 'ECONNRESET');
  expect((await open()).end()).toBe('ECONNREFUSED');
  await proxy.heal();
  const after = await open();
  after.socket.write('b');
  await hears(after, 'echo b');
});

test.each(['both', 'to-server', 'to-client'] as const)(
  'holds bytes %s and delivers them after heal',
  async (way) => {
    const client = await open();
    client.socket.write('a');
    await hears(client, 'echo a');
    proxy.blackhole(way);
    client.socket.write('b');
    await expect(waitFor(client.heard, (heard) => heard !== 'echo a', { timeoutMs: 150 })).rejects.toThrow(
      'not reached',
    );
    expect(client.end()).toBeUndefined();
    await proxy.heal();
    await hears(client, 'echo aecho b');
  },
);

test('delays each piece and keeps their order when the delay shrinks', async () => {
  const client = await open();
  const began = performance.now();
  proxy.slow(150);
  client.socket.write('a');
  await waitFor(proxy.connections, (count) => count === 1);
  await new Promise((resolve) => setTimeout(resolve, 20));
  proxy.slow(0);
  client.socket.write('b');
  await waitFor(client.heard, (heard) => heard.includes('b'), { timeoutMs: 2_000 });
  expect(performance.now() - began).toBeGreaterThanOrEqual(150);
  expect(client.heard().replaceAll('echo ', '')).toBe('ab');
});

test('cuts open connections and lets new ones pass', async () => {
  const client = await open();
  client.socket.write('a');
  await hears(client, 'echo a');
  proxy.cut();
  await waitFor(client.end, (end) => end === 'ECONNRESET');
  const next = await open();
  next.socket.write('b');
  await hears(next, 'echo b');
  expect(proxy.accepted()).toBe(2);
});

test('puts its own host and port into the URL it was given', async () => {
  await using other = await startFaultProxy({ url: 'postgres://user:secret@db.example/name?x=1' });
  expect(other.url).toBe(`postgres://user:secret@127.0.0.1:${other.port}/name?x=1`);
});
