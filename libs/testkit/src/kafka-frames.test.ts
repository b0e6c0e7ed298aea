import { expect, test } from 'vitest';
import { createKafkaFrames } from './kafka-frames.ts';

const proxy = { host: '127.0.0.1', port: 4_242 };

const int16 = (value: number) => {
  const bytes = Buffer.alloc(2);
  bytes.writeInt16BE(value);
  return bytes;
};
const int32 = (value: number) => {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
};
const text = (value: string) => Buffer.concat([int16(Buffer.byteLength(value)), Buffer.from(value)]);
const frame = (...parts: Buffer[]) => {
  const body = Buffer.concat(parts);
  return Buffer.concat([int32(body.length), body]);
};
const request = (apiKey: number, version: number, correlation: number) =>
  frame(int16(apiKey), int16(version), int32(correlation), text('client'));

function metadata(version: number, correlation: number, host: string, port: number): Buffer {
  return frame(
    int32(correlation),
    ...(version >= 3 ? [int32(0)] : []),
    int32(1),
    int32(1),
    text(host),
    int32(port),
    ...(version >= 1 ? [int16(-1)] : []),
    Buffer.from('the rest'),
  );
}

function coordinator(version: number, correlation: number, host: string, port: number, node = 1): Buffer {
  return frame(
    int32(correlation),
    ...(version >= 1 ? [int32(0)] : []),
    int16(0),
    ...(version >= 1 ? [int16(-1)] : []),
    int32(node),
    text(host),
    int32(port),
  );
}

test.each([0, 1, 2, 3, 6, 8])('Metadata v%d names the proxy, and the rest stays', (version) => {
  const frames = createKafkaFrames(proxy);
  frames.fromClient(request(3, version, 7));
  expect(frames.fromBroker(metadata(version, 7, 'broker.internal', 9_092))).toEqual([
    metadata(version, 7, proxy.host, proxy.port),
  ]);
});

test.each([0, 1, 2])('FindCoordinator v%d names the proxy, unless there is none', (version) => {
  const frames = createKafkaFrames(proxy);
  frames.fromClient(request(10, version, 1));
  frames.fromClient(request(10, version, 2));
  const none = coordinator(version, 2, '', -1, -1);
  expect(frames.fromBroker(Buffer.concat([coordinator(version, 1, 'broker', 9_092), none]))).toEqual([
    coordinator(version, 1, proxy.host, proxy.port),
    none,
  ]);
});

test('other answers pass as they are, however the bytes are cut', () => {
  const frames = createKafkaFrames(proxy);
  const asked = Buffer.concat([request(1, 11, 5), request(3, 6, 6)]);
  for (const byte of asked) {
    frames.fromClient(Buffer.of(byte));
  }
  const fetched = frame(int32(5), Buffer.alloc(1_000, 1));
  const answered = Buffer.concat([fetched, metadata(6, 6, 'broker', 9_092)]);
  const passed: Buffer[] = [];
  for (let at = 0; at < answered.length; at += 3) {
    passed.push(...frames.fromBroker(answered.subarray(at, at + 3)));
  }
  expect(passed).toEqual([fetched, metadata(6, 6, proxy.host, proxy.port)]);
});

test('a version that is not known is refused, so that no client slips past', () => {
  const frames = createKafkaFrames(proxy);
  frames.fromClient(request(3, 9, 1));
  expect(() => frames.fromBroker(metadata(8, 1, 'broker', 1))).toThrow('Metadata v9');
  expect(() => frames.fromBroker(Buffer.from('GET / HTTP/1.1'))).toThrow('not a Kafka frame');
});
