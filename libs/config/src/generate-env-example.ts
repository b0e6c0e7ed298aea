import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { declaredSettings, renderEnvExample } from './env-example.ts';
import { projectRoot } from './sources.ts';

/** `npm run env-example`: writes .env.example from all declared settings. */
writeFileSync(join(projectRoot, '.env.example'), renderEnvExample(await declaredSettings()));
