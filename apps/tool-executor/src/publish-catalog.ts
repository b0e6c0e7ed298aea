import { createHash } from 'node:crypto';
import { newId } from '@signalbox/contracts/ids';
import { toolKey } from '@signalbox/contracts/keys';
import { type ToolCatalogued, toolCatalogSchema } from '@signalbox/contracts/tool-catalog';
import { pause } from '@signalbox/lifecycle/pause';
import type { Outbox, OutgoingMessage } from '@signalbox/messaging/messaging';
import type { Database } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { Tool } from './tools/tool.ts';

interface ToolColumns {
  readonly tenant: string;
  readonly name: string;
  readonly description: string;
  readonly parameters: Readonly<Record<string, unknown>>;
  readonly idempotent: boolean;
  readonly timeout_ms: number;
  readonly enabled: boolean;
  readonly version: string;
}

const fillTools = 'select tool_executor.fill_tools($1, $2)';
/** An outbox transaction locks its keys, 256 at most. */
const batch = 200;
const everyMs = 5_000;
const againMs = 1_000;

/** A tool as the release defines it, for the rows of tenants that have it. */
interface FilledTool extends Omit<ToolColumns, 'tenant' | 'enabled' | 'version'> {
  readonly filled_from: string;
}

/** The definitions of this release, each under a hash of what it says. */
export function definitionsOf(tools: readonly Tool[]): FilledTool[] {
  return tools.map(({ name, description, parameters, idempotent, timeoutMs }) => {
    const definition = { name, description, parameters, idempotent, timeout_ms: timeoutMs };
    const hash = createHash('sha256').update(JSON.stringify(definition)).digest('hex');
    return { ...definition, filled_from: hash.slice(0, 16) };
  });
}

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

/**
 * At the start, brings the tenants' rows to what this release says of its tools and publishes what changed; then every
 * five seconds what was added or changed meanwhile, until the signal aborts. Not again for rows that another release
 * has filled since: two that run side by side would otherwise change them back and forth.
 */
export async function keepPublishing(
  parts: { database: Database; outbox: Pick<Outbox, 'put'>; tools: readonly Tool[]; log: Logger },
  signal: AbortSignal,
): Promise<void> {
  const { database, outbox, log } = parts;
  const definitions = JSON.stringify(definitionsOf(parts.tools));
  let onlyNew = false;
  let failing = false;
  while (!signal.aborted) {
    let pauseMs = everyMs;
    try {
      await database.query(fillTools, [definitions, onlyNew]);
      onlyNew = true;
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
