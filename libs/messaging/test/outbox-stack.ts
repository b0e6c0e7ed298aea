import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll } from 'vitest';
import type { PutResult } from '../src/messaging.ts';
import { deleteRows, putRows, type StoredRow, staleRows } from '../src/outbox-sql.ts';
import { type OutgoingMessage, toRecord } from '../src/outgoing.ts';
import { sendRow } from '../src/row-sending.ts';
import { firstCopies, type Process, type ProcessOptions, Stack } from './stack.ts';

export interface OutboxRow {
  readonly id: string;
  readonly writer: string | null;
}

export interface OutboxStack {
  readonly stack: Stack;
  /** Between processes that ask for it and the broker. */
  readonly proxy: FaultProxy;
  start(options?: ProcessOptions): Process;
  /** Options of a process whose broker can be taken away, and that gives up quickly. */
  behindProxy(): ProcessOptions;
  rows(session: string): Promise<OutboxRow[]>;
  /** Waits until the rows of the session are sent and deleted. */
  emptied(session: string): Promise<unknown>;
  put(process: Process, ...messages: OutgoingMessage[]): Promise<void>;
  /** Puts a row as a service's own SQL function does: the process is told by hand, when the test wants. */
  putByHand(process: Process, message: OutgoingMessage): Promise<PutResult>;
  /** First copies of the session's texts in the topic. */
  published(session: string): Promise<string[]>;
  /** A relay's round in two halves, so that something can happen between them. */
  relayReads(process: Process, session: string, staleMs?: number): Promise<StoredRow[]>;
  relaySends(process: Process, read: readonly StoredRow[]): Promise<void>;
}

export const slots = Array.from({ length: 64 }, (_, slot) => slot);

/** Registers the hooks of a test file; the parts are there once its tests run. */
export function outboxStack(): OutboxStack {
  let stack: Stack;
  let proxy: FaultProxy;
  const open = new Set<Process>();

  beforeAll(async () => {
    stack = await Stack.create('conversation.inbound', 'conversation.outbound');
    const [host = '', port = ''] = testInfra().kafka.split(':');
    proxy = await startFaultProxy({ host, port: Number(port), kafka: true });
  });
  afterEach(async () => {
    await proxy.heal();
    await Promise.all([...open].map((process) => process.close()));
    open.clear();
    await stack.database.query('delete from messaging.outbox');
  });
  afterAll(async () => {
    await proxy?.close();
    await stack?.drop();
  });

  const rows = (session: string) =>
    stack.database.query<OutboxRow>(
      "select id, writer from messaging.outbox where key = $1 and topic not like '%.dlq' order by id",
      [`acme:${session}`],
    );
  return {
    get stack() {
      return stack;
    },
    get proxy() {
      return proxy;
    },
    start(options = {}) {
      const process = stack.process(options);
      open.add(process);
      return process;
    },
    behindProxy: () => ({
      bootstrap: proxy.address,
      settings: { kafkaRequestTimeoutMs: 500, kafkaConnectionTimeoutMs: 300, outboxFastMaxAgeMs: 600 },
    }),
    rows,
    emptied: (session) =>
      waitFor(
        () => rows(session),
        (left) => left.length === 0,
        { label: 'the rows of the session sent and deleted' },
      ),
    put: (process, ...messages) =>
      process.database.transaction((tx) => process.messaging.outbox.put(tx, messages)),
    async putByHand(process, message) {
      const record = { ...toRecord(message, undefined), tenant: message.tenant, eventId: message.eventId };
      const [row] = await process.database.transaction((tx) => putRows(tx, process.instanceId, [record]));
      if (row === undefined) throw new Error('no row');
      return { ...record, ...row };
    },
    published: async (session) => firstCopies(await stack.read('conversation.inbound'), `acme:${session}`),
    relayReads: async (process, session, staleMs = 5_000) =>
      (await staleRows(process.database, slots, staleMs, 1_000, [])).filter(
        ({ key }) => key === `acme:${session}`,
      ),
    async relaySends(process, read) {
      await Promise.all(
        read.map(
          (row) =>
            new Promise<void>((resolve, reject) =>
              process.messaging.producer.enqueue(
                sendRow(row, 'relay', { sent: () => resolve(), refused: reject }),
              ),
            ),
        ),
      );
      await deleteRows(process.database, read);
    },
  };
}
