import { createKey, createTenant } from '@signalbox/identity/create-key';
import type { Scope } from '@signalbox/identity/scopes';
import { openDatabase, type Transaction } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import type { Progress } from './progress.ts';
import {
  type SeededTenant,
  seededPersonas,
  seededProfiles,
  seededTenants,
  seededTools,
} from './seed-data.ts';

async function seedPersonas(tx: Transaction, tenant: string): Promise<number> {
  let made = 0;
  for (const {
    personaId,
    systemPrompt,
    modelProfile,
    tools,
    memory = {},
    delegates = [],
  } of seededPersonas) {
    const rows = await tx.query(
      `INSERT INTO conversation_worker.personas
         (tenant, persona_id, system_prompt, model_profile, tools, memory, delegates)
       VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING RETURNING persona_id`,
      [tenant, personaId, systemPrompt, modelProfile, tools, memory, JSON.stringify(delegates)],
    );
    await tx.query(
      'INSERT INTO gateway.personas (tenant, persona_id) VALUES ($1, $2) ON CONFLICT DO NOTHING',
      [tenant, personaId],
    );
    made += rows.length;
  }
  return made;
}

async function seedProfiles(tx: Transaction, tenant: string): Promise<number> {
  let made = 0;
  for (const { name, maxOutputTokens, fallback } of seededProfiles) {
    const rows = await tx.query(
      `INSERT INTO conversation_worker.model_profiles (tenant, name, max_output_tokens, fallback)
       VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING name`,
      [tenant, name, maxOutputTokens, fallback ?? null],
    );
    made += rows.length;
  }
  return made;
}

/** By name alone: tool-executor fills in what its release says of them, and publishes them. */
async function seedTools(tx: Transaction, tenant: string): Promise<number> {
  const rows = await tx.query(
    `INSERT INTO tool_executor.tools (tenant, name) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING RETURNING name`,
    [tenant, seededTools],
  );
  return rows.length;
}

async function seedTenant(tx: Transaction, { tenant, name, key }: SeededTenant): Promise<number> {
  const tenantMade = await createTenant(tx, tenant, name);
  const scopes: Scope[] = ['dlq:read', 'dlq:write'];
  const keyMade = await createKey(tx, { tenant, text: key, name: 'development', scopes });
  const personas = await seedPersonas(tx, tenant);
  const profiles = await seedProfiles(tx, tenant);
  const tools = await seedTools(tx, tenant);
  return Number(tenantMade) + Number(keyMade) + personas + profiles + tools;
}

/**
 * Writes the development tenants, keys, personas, model profiles and tools that are missing; what is there stays as it
 * is, also when it was changed. Runs as the owner, after the migrations. Resolves with the number of rows written.
 */
export async function seedStack(ownerUrl: string, progress: Progress): Promise<number> {
  const database = openDatabase({
    url: ownerUrl,
    poolSize: 1,
    maxOverflow: 0,
    poolTimeoutMs: 10_000,
    poolRecycleMs: 60_000,
    applicationName: 'signalbox-seed',
    log: silentLog,
    metrics: silentMetrics,
  });
  try {
    const written = await database.transaction(async (tx) => {
      let rows = 0;
      for (const tenant of seededTenants) rows += await seedTenant(tx, tenant);
      return rows;
    });
    progress(
      written === 0
        ? 'seed: everything is there'
        : `seed: wrote ${written} rows for ${seededTenants.map(({ tenant }) => tenant).join(', ')}`,
    );
    return written;
  } finally {
    await database.close();
  }
}
