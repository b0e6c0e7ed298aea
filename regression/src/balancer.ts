import { connect, createServer, type Socket } from 'node:net';

export interface Balancer {
  readonly url: string;
  /** Connections handed to each backend so far, by its URL. */
  readonly handed: ReadonlyMap<string, number>;
  close(): Promise<void>;
}

const checkEveryMs = 250;
const checkBoundMs = 750;

/**
 * What stands before the gateways: each connection goes to the next of them in turn, past those that refuse it or whose
 * /ready did not answer 200 when it was last asked. A new one gets none before it has said that it is ready. When none
 * is ready all are tried: better a chance than a refusal.
 */
export async function startBalancer(backends: () => readonly string[]): Promise<Balancer> {
  const ready = new Set<string>();
  const handed = new Map<string, number>();
  const sockets = new Set<Socket>();
  let turn = 0;
  const checks = setInterval(() => {
    for (const url of backends()) {
      fetch(`${url}/ready`, { signal: AbortSignal.timeout(checkBoundMs) })
        .then(async (reply) => {
          await reply.arrayBuffer();
          return reply.ok;
        })
        .catch(() => false)
        .then((isReady) => (isReady ? ready.add(url) : ready.delete(url)));
    }
  }, checkEveryMs);

  const server = createServer({ pauseOnConnect: true }, (client) => {
    sockets.add(client);
    client.on('error', () => undefined);
    client.on('close', () => sockets.delete(client));
    const all = backends();
    turn += 1;
    const inTurn = all.map((_, index) => all[(turn + index) % all.length] ?? '');
    const fit = inTurn.filter((url) => ready.has(url));
    hand(client, fit.length > 0 ? fit : inTurn);
  });

  function hand(client: Socket, [url, ...others]: readonly string[]): void {
    if (url === undefined) return void client.resetAndDestroy();
    const { hostname, port } = new URL(url);
    const backend = connect({ host: hostname, port: Number(port) });
    let open = false;
    backend.once('connect', () => {
      open = true;
      handed.set(url, (handed.get(url) ?? 0) + 1);
      client.pipe(backend);
      backend.pipe(client);
      client.resume();
    });
    // Before it is open the client has lost nothing: the next one. After it, what broke is broken for the client too.
    backend.on('error', () => {
      if (open) client.resetAndDestroy();
      else hand(client, others);
    });
    backend.on('close', () => {
      // What has come from it is still on its way to the client.
      if (open) client.end();
    });
    client.on('close', () => backend.destroy());
  }

  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  return {
    url: `http://127.0.0.1:${typeof address === 'object' ? address?.port : 0}`,
    handed,
    close() {
      clearInterval(checks);
      for (const socket of sockets) socket.destroy();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}
