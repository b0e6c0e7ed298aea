/**
 * Starts a service as it is, with something in its lifecycle that misbehaves: arguments are the service and the
 * behaviour (misbehaving-lifecycle.ts).
 */
import { registerHooks } from 'node:module';

const real = import.meta.resolve('@signalbox/lifecycle/lifecycle');
const standIn = new URL('./misbehaving-lifecycle.ts', import.meta.url).href;
registerHooks({
  resolve(specifier, context, next) {
    const found = next(specifier, context);
    return found.url === real && context.parentURL !== standIn ? { ...found, url: standIn } : found;
  },
});
await import(new URL(`../../apps/${process.argv[2]}/src/main.ts`, import.meta.url).href);
