import { connect } from 'node:net';
import type { StopStep } from '@signalbox/lifecycle/lifecycle';
import { createLifecycle } from '@signalbox/lifecycle/lifecycle';
import { type Board, createBoard } from '@signalbox/readiness/board';
import { startTelemetry, type Telemetry } from '@signalbox/telemetry/telemetry';
import { createServer, portOf, type ServerOptions, type ServerSettings } from '../src/server.ts';
import type { HttpServer } from '../src/types.ts';

export interface RunningServer {
  readonly url: string;
  readonly port: number;
  readonly server: HttpServer;
  readonly board: Board;
  readonly telemetry: Telemetry;
  /** Log records, parsed, in order. */
  readonly records: readonly Record<string, unknown>[];
  readonly lifecycle: ReturnType<typeof createLifecycle>;
  record(
    event: string,
    matches?: (record: Record<string, unknown>) => boolean,
  ): Record<string, unknown> | undefined;
  /** Sends bytes as they are and reads until the server closes. */
  raw(bytes: string | Buffer): Promise<string>;
  [Symbol.asyncDispose](): Promise<void>;
}

export interface RunningServerOptions {
  readonly settings?: Partial<ServerSettings>;
  readonly openapi?: ServerOptions['openapi'];
  readonly drainDelayMs?: number;
  readonly otlpEndpoint?: string;
  readonly metrics?: boolean;
  routes?(server: HttpServer): void;
  onStep?(step: StopStep): void;
}

/** A real server on a free port, with the whole of telemetry, board and lifecycle behind it. */
export async function startServer(options: RunningServerOptions = {}): Promise<RunningServer> {
  const records: Record<string, unknown>[] = [];
  const telemetry = startTelemetry({
    service: 'under-test',
    version: '1.2.3',
    environment: 'dev',
    instanceId: 'i',
    tracing: true,
    metrics: options.metrics ?? true,
    otlpEndpoint: options.otlpEndpoint,
    logLevel: 'DEBUG',
    logFormat: 'json',
    logDestination: { write: (line) => void records.push(JSON.parse(line)) },
  });
  const board = createBoard({ service: 'under-test', version: '1.2.3' });
  const lifecycle = createLifecycle();
  // What superviseService does in a service.
  lifecycle.onStop({ name: 'readiness', phase: 'readiness', run: () => board.markDraining() });
  lifecycle.configure({ drainDelayMs: options.drainDelayMs ?? 0, stopTimeoutMs: 10_000, log: telemetry.log });
  const server = createServer({
    settings: {
      serviceName: 'under-test',
      serviceVersion: '1.2.3',
      serviceCommit: 'abc',
      host: '127.0.0.1',
      port: 0,
      metricsEnabled: options.metrics ?? true,
      ...options.settings,
    },
    log: telemetry.log,
    telemetry,
    board,
    lifecycle,
    ...(options.openapi === undefined ? {} : { openapi: options.openapi }),
  });
  options.routes?.(server);
  await server.listen();
  const port = portOf(server);
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    server,
    board,
    telemetry,
    records,
    lifecycle,
    record: (event, matches = () => true) => records.find((each) => each.event === event && matches(each)),
    raw: (bytes) =>
      new Promise((resolve, reject) => {
        const socket = connect(port, '127.0.0.1', () => socket.write(bytes));
        let answer = '';
        socket.on('data', (piece) => {
          answer += String(piece);
        });
        socket.on('close', () => resolve(answer));
        socket.on('error', reject);
      }),
    async [Symbol.asyncDispose]() {
      await lifecycle.stop('test is over');
      await telemetry.shutdown();
    },
  };
}
