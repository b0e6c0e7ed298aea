import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type OtlpReceiver, startOtlpReceiver } from './otlp-receiver.ts';
import { waitUntil } from './wait-until.ts';

let zipkin: Server;
let zipkinUrl: string | undefined;
let receiver: OtlpReceiver;
let received: { id: string }[];
let answers: number[];

beforeEach(async () => {
  received = [];
  answers = [];
  zipkin = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk) => {
      body += chunk;
    });
    request.on('end', () => {
      const status = answers.shift() ?? 202;
      if (status < 300) received.push(...JSON.parse(body));
      response.writeHead(status).end();
    });
  });
  await new Promise<void>((resolve) => zipkin.listen(0, '127.0.0.1', resolve));
  // biome-ignore lint/style/noNonNullAssertion: it listens on TCP
  zipkinUrl = `http://127.0.0.1:${(zipkin.address()! as AddressInfo).port}`;
  receiver = await startOtlpReceiver({ port: 0, zipkinUrl: () => zipkinUrl });
});
afterEach(async () => {
  await receiver.close();
  zipkin.closeAllConnections();
  zipkin.close();
});

function traces(...ids: string[]): string {
  const spans = ids.map((spanId) => ({
    traceId: 'a'.repeat(32),
    spanId,
    name: 's',
    startTimeUnixNano: '1000',
    endTimeUnixNano: '2000',
  }));
  return JSON.stringify({ resourceSpans: [{ scopeSpans: [{ spans }] }] });
}
const post = (body: string | Uint8Array<ArrayBuffer>, headers: Record<string, string> = {}) =>
  fetch(`${receiver.url}/v1/traces`, {
    method: 'POST',
    body,
    headers: { 'content-type': 'application/json', ...headers },
  });
const arrived = (count: number) =>
  waitUntil(() => received.length === count, { label: 'spans', timeoutMs: 5_000 });

describe('the OTLP receiver', () => {
  test('passes spans on to Zipkin', async () => {
    expect((await post(traces('1'.repeat(16), '2'.repeat(16)))).status).toBe(200);
    await arrived(2);
    expect(received.map(({ id }) => id)).toEqual(['1'.repeat(16), '2'.repeat(16)]);
  });

  test('takes gzip', async () => {
    await post(Uint8Array.from(gzipSync(traces('3'.repeat(16)))), { 'content-encoding': 'gzip' });
    await arrived(1);
  });

  test('keeps spans while Zipkin is not up, or fails', async () => {
    const up = zipkinUrl;
    zipkinUrl = undefined;
    await post(traces('4'.repeat(16)));
    answers = [500];
    zipkinUrl = up;
    await arrived(1);
  });

  test('sends what waits when it closes', async () => {
    await post(traces('5'.repeat(16)));
    await receiver.close();
    expect(received).toHaveLength(1);
  });

  test('says what to do about protobuf, and what is wrong with the rest', async () => {
    const protobuf = await post('x', { 'content-type': 'application/x-protobuf' });
    expect(protobuf.status).toBe(415);
    expect(await protobuf.text()).toContain('OTEL_EXPORTER_OTLP_PROTOCOL=http/json');
    expect((await post('{')).status).toBe(400);
    expect(await (await post(traces('short'))).json()).toMatchObject({
      partialSuccess: { rejectedSpans: 1 },
    });
    expect((await fetch(`${receiver.url}/v1/metrics`, { method: 'POST', body: '{}' })).status).toBe(200);
    expect((await fetch(`${receiver.url}/`)).status).toBe(404);
  });
});
