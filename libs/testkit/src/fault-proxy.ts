import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { createKafkaFrames } from './kafka-frames.ts';

export type Direction = 'both' | 'to-server' | 'to-client';

export interface FaultProxyTarget {
  readonly host: string;
  readonly port: number;
  /** Rewrites the broker's address in its answers, so that a Kafka client stays behind the proxy. One broker. */
  readonly kafka?: boolean;
}

export interface FaultProxy {
  readonly host: string;
  readonly port: number;
  /** `host:port`, as KAFKA_BOOTSTRAP_SERVERS takes it. */
  readonly address: string;
  /** The given URL with the proxy's host and port in it; `tcp://host:port` when none was given. */
  readonly url: string;
  /** Open client connections. */
  connections(): number;
  /** Connections that were ever accepted. */
  accepted(): number;
  /** New connections are refused, open ones reset: the process behind is gone. */
  refuse(): Promise<void>;
  /** Bytes stop on their way, connections stay: a dead switch. After heal they arrive, as TCP would deliver them. */
  blackhole(direction?: Direction): void;
  /** Each piece arrives this much later, in order. */
  slow(ms: number): void;
  /** Open connections are reset; new ones pass. */
  cut(): void;
  /** Ends every fault. */
  heal(): Promise<void>;
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

interface Link {
  readonly client: Socket;
  readonly server: Socket;
  apply(): void;
  reset(): void;
}

interface Fault {
  held: ReadonlySet<'to-server' | 'to-client'>;
  delayMs: number;
}

/**
 * A TCP proxy in front of a real dependency that breaks the network and not the client: it listens on a free port of
 * 127.0.0.1 and keeps that port through `refuse` and `heal`.
 */
export async function startFaultProxy(
  target: FaultProxyTarget | { url: string; kafka?: boolean },
): Promise<FaultProxy> {
  const to = 'url' in target ? endpoint(target.url) : target;
  const fault: Fault = { held: new Set(), delayMs: 0 };
  const links = new Set<Link>();
  let acceptedCount = 0;
  let port = 0;
  const server = createServer({ pauseOnConnect: true, allowHalfOpen: true }, (client) => {
    acceptedCount += 1;
    const link = join(client, to, fault, target.kafka ? { host: '127.0.0.1', port } : undefined, () =>
      links.delete(link),
    );
    links.add(link);
  });
  port = await listen(server, 0);

  const cut = () => {
    for (const link of [...links]) {
      link.reset();
    }
  };
  const apply = () => {
    for (const link of links) {
      link.apply();
    }
  };
  const stopListening = async () => {
    if (server.listening) {
      const closed = once(server, 'close');
      server.close();
      cut();
      await closed;
    }
  };
  return {
    host: '127.0.0.1',
    port,
    address: `127.0.0.1:${port}`,
    url: 'url' in target ? withPort(target.url, port) : `tcp://127.0.0.1:${port}`,
    connections: () => links.size,
    accepted: () => acceptedCount,
    refuse: stopListening,
    blackhole(direction = 'both') {
      fault.held = new Set(direction === 'both' ? ['to-server', 'to-client'] : [direction]);
      apply();
    },
    slow(ms) {
      fault.delayMs = ms;
    },
    cut,
    async heal() {
      fault.held = new Set();
      fault.delayMs = 0;
      if (!server.listening) {
        await listen(server, port);
      }
      apply();
    },
    close: stopListening,
    [Symbol.asyncDispose]: stopListening,
  };
}

function join(
  client: Socket,
  to: { host: string; port: number },
  fault: Fault,
  advertise: { host: string; port: number } | undefined,
  onGone: () => void,
): Link {
  const server = connect({ host: to.host, port: to.port, allowHalfOpen: true });
  client.setNoDelay(true);
  server.setNoDelay(true);
  const frames = advertise === undefined ? undefined : createKafkaFrames(advertise);
  const outward = pipe(client, server, fault, (chunk) => {
    frames?.fromClient(chunk);
    return [chunk];
  });
  const inward = pipe(server, client, fault, (chunk) => frames?.fromBroker(chunk) ?? [chunk]);
  const link: Link = {
    client,
    server,
    apply() {
      outward.hold(fault.held.has('to-server'));
      inward.hold(fault.held.has('to-client'));
    },
    reset() {
      client.resetAndDestroy();
      server.resetAndDestroy();
    },
  };
  for (const socket of [client, server]) {
    socket.on('error', () => link.reset()); // a broken half breaks the other: that is what a reset in the network does
    socket.on('close', () => {
      if (client.destroyed && server.destroyed) {
        onGone();
      }
    });
  }
  link.apply();
  return link;
}

/**
 * Passes bytes one way, in order, each piece `delayMs` after it came. Held: nothing is read or written, so the kernel's
 * buffers fill up and the sender sees a dead line.
 */
function pipe(
  from: Socket,
  to: Socket,
  fault: Fault,
  transform: (chunk: Buffer) => Buffer[],
): { hold(held: boolean): void } {
  const queue: { due: number; write: () => void }[] = [];
  let held = false;
  let full = false;
  let timer: NodeJS.Timeout | undefined;
  const flow = () => (held || full ? from.pause() : from.resume());
  const deliver = () => {
    clearTimeout(timer);
    while (!held && queue[0] !== undefined && queue[0].due <= performance.now()) {
      queue.shift()?.write();
    }
    if (!held && queue[0] !== undefined) {
      timer = setTimeout(deliver, Math.max(queue[0].due - performance.now(), 1));
    }
    flow();
  };
  const inOrder = (write: () => void) => {
    queue.push({ due: performance.now() + fault.delayMs, write });
    deliver();
  };
  from.on('data', (chunk: Buffer) => {
    let pieces: Buffer[];
    try {
      pieces = transform(chunk);
    } catch (error) {
      from.destroy(error instanceof Error ? error : new Error(String(error)));
      return;
    }
    inOrder(() => {
      for (const piece of pieces) {
        if (to.writable && !to.write(piece)) {
          full = true;
        }
      }
    });
  });
  to.on('drain', () => {
    full = false;
    flow();
  });
  from.on('end', () => inOrder(() => to.end()));
  from.on('close', () => clearTimeout(timer));
  return {
    hold(now) {
      held = now;
      deliver();
    },
  };
}

function listen(server: Server, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', () => {
      server.removeListener('error', reject);
      const address = server.address();
      resolve(typeof address === 'object' && address !== null ? address.port : port);
    });
  });
}

const defaultPorts: ReadonlyMap<string, number> = new Map([
  ['postgres:', 5432],
  ['postgresql:', 5432],
  ['redis:', 6379],
  ['http:', 80],
]);

function endpoint(url: string): { host: string; port: number } {
  const { protocol, hostname, port } = new URL(url);
  return { host: hostname, port: port === '' ? (defaultPorts.get(protocol) ?? 80) : Number(port) };
}

function withPort(url: string, port: number): string {
  const changed = new URL(url);
  changed.hostname = '127.0.0.1';
  changed.port = String(port);
  return changed.href;
}
