import { isId } from '@signalbox/contracts/ids';
import { isTenant } from '@signalbox/contracts/keys';
import { invalid, table, withOperator } from './operator.ts';

interface Streams {
  readonly print: (line: string) => void;
  readonly note: (line: string) => void;
}

interface OpenMemory {
  readonly tenant: string;
  readonly memory_id: string;
  readonly version: number;
  readonly deleted: boolean;
  readonly written_at: Date;
  readonly last_error: string | null;
}

/** Memories of one transaction of a requeue. */
const requeueBatch = 500;

/** Versions of memories that are not in memory.wal yet, of one tenant or of all: those that failed, or wait. */
export async function listOpenMemories(
  {
    tenant,
    state = 'failed',
    limit,
  }: { readonly tenant?: string; readonly state?: string; readonly limit: number },
  { print, note }: Streams,
): Promise<void> {
  if (state !== 'failed' && state !== 'waiting') throw invalid('state', 'is failed or waiting');
  await withOperator('memory', note, async ({ database }) => {
    const [counts] = await database.query<{ waiting: string; failed: string }>(
      'select * from memory_sync.backlog()',
    );
    const rows = await database.query<OpenMemory>('select * from memory_sync.open_memories($1, $2, $3)', [
      tenantOf(tenant) ?? null,
      state,
      limit,
    ]);
    table(
      ['tenant', 'memory', 'version', 'what', 'written', 'last error'],
      rows.map((row) => [
        ...[row.tenant, row.memory_id, String(row.version), row.deleted ? 'delete' : 'write'],
        ...[row.written_at.toISOString(), row.last_error ?? '–'],
      ]),
      print,
    );
    note(`of all tenants: ${counts?.failed} failed, ${counts?.waiting} waiting`);
  });
}

/** Failed versions are pushed again: all, those of a tenant, or those of one memory of it. */
export async function requeueMemories(
  { tenant, id }: { readonly tenant?: string; readonly id?: string },
  { print, note }: Streams,
): Promise<void> {
  if (id !== undefined && !isId(id)) throw invalid('id', 'is no id');
  if (id !== undefined && tenant === undefined) throw invalid('tenant', 'is needed with --id');
  await withOperator('memory', note, async ({ database, log, by }) => {
    let requeued = 0;
    for (let batch = requeueBatch; batch === requeueBatch; requeued += batch) {
      const [row] = await database.query<{ requeue: number }>('select memory_sync.requeue($1, $2, $3)', [
        tenantOf(tenant) ?? null,
        id ?? null,
        requeueBatch,
      ]);
      batch = row?.requeue ?? 0;
    }
    log.info('memory.requeued', { by, count: requeued });
    print(`requeued ${requeued}`);
  });
}

function tenantOf(tenant: string | undefined): string | undefined {
  if (tenant === undefined || isTenant(tenant)) return tenant;
  throw invalid('tenant', 'is no tenant');
}
