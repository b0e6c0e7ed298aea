/**
 * Rewrites broker addresses in what a broker answers, so that a client that follows the advertised listeners stays
 * behind the proxy. Knows the fixed-layout versions of Metadata (0–8) and FindCoordinator (0–2), which is what kafkajs
 * speaks (up to 6 and 2); a later, flexible version throws instead of letting a client slip past. One broker only:
 * every broker named is taken for the proxied one.
 */
const metadataKey = 3;
const findCoordinatorKey = 10;
const maxFrameBytes = 256 * 1024 * 1024;

interface AwaitedAnswer {
  readonly apiKey: number;
  readonly version: number;
}

export interface KafkaFrames {
  /** Notes the requests in what the client sends; the bytes pass as they are. */
  fromClient(chunk: Buffer): void;
  /** Whole answers as they can be passed on; an incomplete one is kept until the rest came. */
  fromBroker(chunk: Buffer): Buffer[];
}

export function createKafkaFrames(advertise: { host: string; port: number }): KafkaFrames {
  const awaited = new Map<number, AwaitedAnswer>();
  const requests = createSplitter();
  const answers = createSplitter();
  return {
    fromClient(chunk) {
      for (const frame of requests(chunk)) {
        const apiKey = frame.readInt16BE(4);
        if (apiKey === metadataKey || apiKey === findCoordinatorKey) {
          awaited.set(frame.readInt32BE(8), { apiKey, version: frame.readInt16BE(6) });
        }
      }
    },
    fromBroker(chunk) {
      return answers(chunk).map((frame) => {
        const correlation = frame.readInt32BE(4);
        const request = awaited.get(correlation);
        if (request === undefined) {
          return frame;
        }
        awaited.delete(correlation);
        return request.apiKey === metadataKey
          ? rewriteMetadata(frame, request.version, advertise)
          : rewriteCoordinator(frame, request.version, advertise);
      });
    },
  };
}

/** Cuts a byte stream into frames: int32 size, then as many bytes. The frames keep their size field. */
function createSplitter(): (chunk: Buffer) => Buffer[] {
  let parts: Buffer[] = [];
  let held = 0;
  let wanted = 4;
  return (chunk) => {
    parts.push(chunk);
    held += chunk.length;
    if (held < wanted) {
      return [];
    }
    let rest = parts.length === 1 ? chunk : Buffer.concat(parts);
    const frames: Buffer[] = [];
    wanted = 4;
    while (rest.length >= 4) {
      const size = rest.readInt32BE(0);
      if (size < 0 || size > maxFrameBytes) {
        throw new Error(`not a Kafka frame: size ${size}`);
      }
      if (rest.length < size + 4) {
        wanted = size + 4;
        break;
      }
      frames.push(rest.subarray(0, size + 4));
      rest = rest.subarray(size + 4);
    }
    parts = rest.length === 0 ? [] : [rest];
    held = rest.length;
    return frames;
  };
}

function rewriteMetadata(frame: Buffer, version: number, to: { host: string; port: number }): Buffer {
  if (version > 8) {
    throw new Error(`Metadata v${version} is not known to the fault proxy`);
  }
  const start = 8 + (version >= 3 ? 4 : 0); // size, correlation id; from v3 on the throttle time
  let at = start + 4;
  const pieces = [frame.subarray(0, at)];
  for (let left = frame.readInt32BE(start); left > 0; left -= 1) {
    const hostBytes = frame.readInt16BE(at + 4);
    pieces.push(frame.subarray(at, at + 4), address(to));
    at += 4 + 2 + hostBytes + 4;
    if (version >= 1) {
      const rackBytes = Math.max(frame.readInt16BE(at), 0);
      pieces.push(frame.subarray(at, at + 2 + rackBytes));
      at += 2 + rackBytes;
    }
  }
  pieces.push(frame.subarray(at));
  return resized(pieces);
}

function rewriteCoordinator(frame: Buffer, version: number, to: { host: string; port: number }): Buffer {
  if (version > 2) {
    throw new Error(`FindCoordinator v${version} is not known to the fault proxy`);
  }
  let at = 8 + (version >= 1 ? 4 : 0) + 2; // size, correlation id, throttle time, error code
  if (version >= 1) {
    at += 2 + Math.max(frame.readInt16BE(at), 0); // error message
  }
  const node = frame.readInt32BE(at);
  const hostBytes = frame.readInt16BE(at + 4);
  if (node < 0) {
    return frame; // an error: no coordinator is named
  }
  return resized([frame.subarray(0, at + 4), address(to), frame.subarray(at + 4 + 2 + hostBytes + 4)]);
}

function address({ host, port }: { host: string; port: number }): Buffer {
  const text = Buffer.from(host, 'utf8');
  const bytes = Buffer.alloc(2 + text.length + 4);
  bytes.writeInt16BE(text.length, 0);
  text.copy(bytes, 2);
  bytes.writeInt32BE(port, 2 + text.length);
  return bytes;
}

function resized(pieces: Buffer[]): Buffer {
  const frame = Buffer.concat(pieces);
  frame.writeInt32BE(frame.length - 4, 0);
  return frame;
}
