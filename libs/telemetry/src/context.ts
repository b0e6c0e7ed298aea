import { AsyncLocalStorage } from 'node:async_hooks';

/** Whose work is being done; every log line inside carries it. */
export interface WorkContext {
  readonly requestId?: string | undefined;
  readonly tenantId?: string | undefined;
  readonly sessionId?: string | undefined;
}

const storage = new AsyncLocalStorage<WorkContext>();

/** Runs `fn` with these ids on top of those that hold already. */
export function runWithContext<T>(ids: WorkContext, fn: () => T): T {
  return storage.run({ ...storage.getStore(), ...ids }, fn);
}

/** The ids that hold here. */
export function currentContext(): WorkContext {
  return storage.getStore() ?? {};
}
