import { environmentSetting, loadSettings, url } from '@signalbox/config/settings';
import { processSources } from '@signalbox/config/sources';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { PartProblem } from './part-problem.ts';
import { printProgress } from './progress.ts';
import { seedStack } from './seed-stack.ts';
import { terminalLog } from './terminal-log.ts';

/** `npm run seed`: the development tenants into the running stack's database, or DATABASE_OWNER_URL's. */
await runMain(async (lifecycle) => {
  const progress = printProgress();
  lifecycle.configure({
    drainDelayMs: 0,
    stopTimeoutMs: 5_000,
    log: { ...terminalLog(progress), info: () => {} },
  });
  const sources = processSources();
  const settings = loadSettings(
    'seed',
    {
      environment: environmentSetting,
      databaseOwnerUrl: url({
        env: 'DATABASE_OWNER_URL',
        doc: 'The database as the role that owns the tables.',
        schemes: ['postgres', 'postgresql'],
      }),
    },
    { ...sources, environment: { ENVIRONMENT: 'dev', ...sources.environment } },
  );
  if (settings.environment !== 'dev') {
    throw new PartProblem(`seeded keys are known to everybody: not with ENVIRONMENT=${settings.environment}`);
  }
  await seedStack(settings.databaseOwnerUrl, progress);
  await lifecycle.stop('done');
});
