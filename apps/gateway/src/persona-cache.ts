import { isFault } from '@signalbox/faults/fault';

export interface PersonaCache {
  /** Whether the tenant has this persona. Throws DATABASE_UNAVAILABLE when nothing is known of the tenant yet. */
  has(tenant: string, personaId: string): Promise<boolean>;
}

interface Known {
  personas: ReadonlySet<string>;
  loadedAt: number;
}

/** A known persona is trusted this long without a look; one that was removed is then refused by the worker instead. */
const freshMs = 5_000;
/** An unknown one is looked up again after this: it may just have been made. */
const askAgainMs = 500;
const maxTenants = 10_000;

/** Personas of the tenants that post, so that the accept path asks nobody. Old knowledge serves while Postgres is away. */
export function createPersonaCache(
  load: (tenant: string) => Promise<readonly string[]>,
  now: () => number = () => performance.now(),
): PersonaCache {
  const known = new Map<string, Known>();
  const loading = new Map<string, Promise<Known>>();

  function loadOnce(tenant: string): Promise<Known> {
    let under = loading.get(tenant);
    if (under === undefined) {
      under = load(tenant)
        .then((ids) => {
          const entry = { personas: new Set(ids), loadedAt: now() };
          known.delete(tenant);
          const oldest = known.size >= maxTenants ? known.keys().next().value : undefined;
          if (oldest !== undefined) known.delete(oldest);
          known.set(tenant, entry);
          return entry;
        })
        .finally(() => loading.delete(tenant));
      loading.set(tenant, under);
    }
    return under;
  }

  return {
    async has(tenant, personaId) {
      const entry = known.get(tenant);
      if (entry === undefined) return (await loadOnce(tenant)).personas.has(personaId);
      const age = now() - entry.loadedAt;
      if (entry.personas.has(personaId)) {
        if (age > freshMs) loadOnce(tenant).catch(() => undefined);
        return true;
      }
      if (age <= askAgainMs) return false;
      try {
        return (await loadOnce(tenant)).personas.has(personaId);
      } catch (error) {
        if (isFault(error, 'DATABASE_UNAVAILABLE')) return false;
        throw error;
      }
    },
  };
}
