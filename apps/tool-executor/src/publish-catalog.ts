import { newId } from '@signalbox/contracts/ids';
import { toolKey } from '@signalbox/contracts/keys';
import { type ToolCatalogued, toolCatalogSchema } from '@signalbox/contracts/tool-catalog';
import type { Outbox, OutgoingMessage } from '@signalbox/messaging/messaging';
import type { Database } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';

interface ToolColumns {
  readonly tenant: string;
  readonly name: string;
  readonly description: string;
  readonly parameters: Record<string, unknown>;
  readonly idempotent: boolean;
  readonly timeout_ms: number;
  readonly enabled: boolean;
  readonly version: string;
}

/** An outbox transaction locks its keys, 256 at most. */
const batch = 200;
const everyMs = 5_000;
const againMs = 1_000;

/**
 * Puts every entry of the tools table that changed since it was last published into the outbox, for tool.catalog.
 * Entry and mark are one transaction, so none is lost, and none is sent twice by two replicas. Returns how many.
 */
export async function publishCatalog(database: Database, outbox: Pick<Outbox, 'put'>): Promise<number> {
  let published = 0;
  for (;;) {
    const count = await database.transaction(async (tx) => {
      const rows = await tx.query<ToolColumns>('select * from tool_executor.take_unpublished($1)', [batch]);
      await outbox.put(tx, rows.map(catalogued));
      return rows.length;
    });
    published += count;
    if (count < batch) {
      return published;
    }
  }
}

/** Publishes at the start and then every five seconds what changed meanwhile, until the signal aborts. */
export async function keepPublishing(
  database: Database,
  outbox: Pick<Outbox, 'put'>,
  log: Logger,
  signal: AbortSignal,
): Promise<void> {
  let failing = false;
  while (!signal.aborted) {
    let pauseMs = everyMs;
    try {
      const published = await publishCatalog(database, outbox);
      if (published > 0) {
        log.info('catalog.published', { tools: published });
      }
      failing = false;
    } catch (error) {
      if (!failing) {
        log.warning('catalog.not_published', { error });
      }
      failing = true;
      pauseMs = againMs;
    }
    await pause(pauseMs, signal);
  }
}

function catalogued({ tenant, version, ...tool }: ToolColumns): OutgoingMessage {
  const value: ToolCatalogued = { ...tool, version: Number(version) };
  return {
    topic: 'tool.catalog',
    key: toolKey(tenant, tool.name),
    tenant,
    eventType: 'tool.catalogued',
    schema: toolCatalogSchema,
    eventId: newId(),
    value,
  };
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', done);
  });
}
