import type { Queryable } from '@signalbox/postgres/database';

/** A tool of a tenant as calls of it need it. */
export interface TenantTool {
  readonly parameters: Readonly<Record<string, unknown>>;
  readonly idempotent: boolean;
  readonly timeoutMs: number;
  /** Names this state of the tool: a check compiled for it holds until it changes. */
  readonly version: string;
}

/** The tool, or undefined when the tenant has none of this name or it is disabled. Faults: DATABASE_UNAVAILABLE. */
export type FindTool = (tenant: string, name: string) => Promise<TenantTool | undefined>;

interface ToolColumns {
  readonly parameters: Record<string, unknown>;
  readonly idempotent: boolean;
  readonly timeout_ms: number;
  readonly enabled: boolean;
  readonly version: string;
}

const statement = {
  name: 'tool_executor_find_tool',
  text: 'select parameters, idempotent, timeout_ms, enabled, version from tool_executor.find_tool($1, $2)',
};
const keptMs = 2_000;
const maxKept = 1_000;

/** Reads tools from the table and keeps each for two seconds, 1 000 at most: a change is in force that soon. */
export function toolLookup(database: Queryable, now: () => number = () => performance.now()): FindTool {
  const kept = new Map<string, { tool: TenantTool | undefined; until: number }>();
  return async (tenant, name) => {
    const key = `${tenant} ${name}`;
    const known = kept.get(key);
    if (known !== undefined && known.until > now()) {
      return known.tool;
    }
    const [row] = await database.query<ToolColumns>(statement, [tenant, name]);
    const tool =
      row?.enabled === true
        ? {
            parameters: row.parameters,
            idempotent: row.idempotent,
            timeoutMs: row.timeout_ms,
            version: row.version,
          }
        : undefined;
    kept.delete(key);
    kept.set(key, { tool, until: now() + keptMs });
    const oldest = kept.keys().next().value;
    if (kept.size > maxKept && oldest !== undefined) {
      kept.delete(oldest);
    }
    return tool;
  };
}
