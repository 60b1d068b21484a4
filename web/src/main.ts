import './app.css';
import { mount } from 'svelte';
import App from './App.svelte';
import { applyPreferences } from './lib/prefs.svelte';

applyPreferences();
const target = document.getElementById('app');
if (target) mount(App, { target });
