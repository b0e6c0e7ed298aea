import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fault } from '@signalbox/faults/fault';

/**
 * Where `${secret:name}` in a value is read. Environment and files answer at once; a vault answers with a promise and
 * can serve what is resolved through `resolveSecrets` (a model profile's key), not the settings of the start.
 */
export interface SecretProvider {
  readonly name: string;
  read(name: string): string | undefined | Promise<string | undefined>;
}

export interface SyncSecretProvider extends SecretProvider {
  read(name: string): string | undefined;
}

const reference = /\$\{secret:([A-Za-z0-9][A-Za-z0-9._-]{0,127})\}/g;

export function hasSecretReference(text: string): boolean {
  return text.search(reference) >= 0;
}

/** `SIGNALBOX_SECRET_<NAME>` of the environment, with `.` and `-` read as `_`. */
export function environmentSecrets(
  environment: Readonly<Record<string, string | undefined>>,
): SyncSecretProvider {
  return {
    name: 'environment',
    read: (name) =>
      environment[`SIGNALBOX_SECRET_${name.toUpperCase().replaceAll(/[.-]/g, '_')}`] || undefined,
  };
}

/** The file `<folder>/<name>`, as Docker and Kubernetes mount secrets; one line break at its end does not count. */
export function fileSecrets(folder: string): SyncSecretProvider {
  return {
    name: 'files',
    read(name) {
      // The pattern of a reference allows no slash, and no dot at its front: it cannot leave the folder.
      try {
        return readFileSync(join(folder, name), 'utf8').replace(/\r?\n$/, '');
      } catch (error) {
        if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
        throw fault('SECRET_UNRESOLVED', `secret ${name} cannot be read from its file`, { cause: error });
      }
    },
  };
}

/** Replaces every reference; the first provider that knows the name wins. @throws SECRET_UNRESOLVED */
export async function resolveSecrets(text: string, providers: readonly SecretProvider[]): Promise<string> {
  const values = new Map<string, string>();
  for (const [, name] of text.matchAll(reference)) {
    if (name === undefined || values.has(name)) continue;
    for (const provider of providers) {
      const value = await provider.read(name);
      if (value === undefined) continue;
      values.set(name, value);
      break;
    }
  }
  return replaceReferences(text, (name) => values.get(name));
}

/** The same at the start, where nothing waits. @throws SECRET_UNRESOLVED */
export function resolveSecretsNow(text: string, providers: readonly SyncSecretProvider[]): string {
  return replaceReferences(text, (name) => {
    for (const provider of providers) {
      const value = provider.read(name);
      if (value !== undefined) return value;
    }
    return undefined;
  });
}

function replaceReferences(text: string, lookUp: (name: string) => string | undefined): string {
  return text.replaceAll(reference, (_, name: string) => {
    const value = lookUp(name);
    if (value === undefined) throw fault('SECRET_UNRESOLVED', `no provider knows the secret ${name}`);
    return value;
  });
}
